"""Documents in JSON files."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.sources.columns import Columns
from beacon_lit.data.sources.compressed import BrokenFileError, read_chunks
from beacon_lit.data.sources.files import RecordFileSource, Row, Rows
from beacon_lit.data.sources.json_records import WHITESPACE, RawRecord, elements, lines
from beacon_lit.data.sources.utf8 import WAY_OUT, as_utf8


@dataclass(frozen=True)
class JsonSource(RecordFileSource):
    """Documents in JSON files in UTF-8: one record per line, or one array per file; plain or compressed.

    A record is an object with the columns of a schema (see `schemas`), and may have an `id` (default: file:number).
    The records of a file may have several schemas. Only one record is held in memory, however large the file is. With
    a byte order mark, UTF-16 and UTF-32 are read as well.

    Kinds of malformed records, besides those of `Columns.document`: invalid_json, invalid_utf8, too_large; for a whole
    file empty_file; for the rest of a file truncated, corrupt and invalid_encoding.

    Args:
        path, data_root, weight, answer_share: see `FileSource`.
        text_column, conversations_column, columns, max_bytes: see `Columns`.
    """

    def rows(self, file: Path) -> Rows:
        """See `RecordFileSource`."""
        return read_json(file, self)


def read_json(file: Path, columns: Columns) -> Rows:
    """Yield the records of a JSON file; see `JsonSource`."""
    cut_off: RawRecord | None = None
    unit, number, found = "line", 0, False
    try:
        head, content = _head(as_utf8(read_chunks(file)))
        unit, split = ("record", elements) if head.startswith(b"[") else ("line", lines)
        for raw in split(content, columns.max_bytes):
            number, found = raw.number, True
            row = _parsed(raw, f"{file}, {unit} {number}", f"{file.name}:{number}", columns.max_bytes)
            unreadable = isinstance(row, MalformedRecord) and row.kind in ("invalid_json", "invalid_utf8")
            if unreadable and not raw.ended:
                cut_off = raw
            else:
                yield row
    except BrokenFileError as broken:
        yield MalformedRecord(broken.kind, f"{file}, {unit} {number}" if number else str(file), broken.reason)
        return
    if cut_off:
        reason = "the last line is not JSON and has no line break: the file is cut off"
        yield MalformedRecord("truncated", f"{file}, line {cut_off.number}", reason)
    elif not found:
        yield MalformedRecord("empty_file", str(file), "the file has no records")


def _parsed(raw: RawRecord, where: str, default_id: str, max_bytes: int) -> Row | MalformedRecord:
    if raw.data is None:
        return MalformedRecord("too_large", where, f"a record of {raw.size:,} bytes, max_bytes={max_bytes:,}")
    if b"\0" in raw.data:
        return MalformedRecord("nul", where, "the record has a NUL byte")
    try:
        return Row(json.loads(raw.data.strip(WHITESPACE).decode()), where, default_id)
    except UnicodeDecodeError as error:
        reason = f"invalid UTF-8: byte {error.start + 1} of the record is 0x{error.object[error.start]:02x}; {WAY_OUT}"
        return MalformedRecord("invalid_utf8", where, reason)
    except json.JSONDecodeError as error:
        reason = f"invalid JSON: {error.msg} (character {error.pos + 1} of the record)"
        return MalformedRecord("invalid_json", where, reason)
    except (ValueError, RecursionError) as error:  # a number with too many digits, or brackets nested too deep
        return MalformedRecord("invalid_json", where, f"JSON that cannot be read: {error}")


def _head(content: Iterator[bytes]) -> tuple[bytes, Iterable[bytes]]:
    """Return the first bytes without leading white space, and the whole content."""
    head = b""
    for chunk in content:
        head += chunk
        if head.strip(WHITESPACE):
            break
    return head.lstrip(WHITESPACE), chain([head], content)
