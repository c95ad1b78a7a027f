"""Documents in JSON files."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from beacon_lit.data.records import MalformedRecord, SourceRecord
from beacon_lit.data.sources.compressed import BrokenFileError, read_chunks
from beacon_lit.data.sources.files import RecordFileSource
from beacon_lit.data.sources.json_records import WHITESPACE, RawRecord, elements, lines

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class JsonSource(RecordFileSource):
    """Documents in JSON files in UTF-8: one record per line, or one array per file; plain, .gz or .zst.

    A record is an object with `text` or `conversations` (list of {"role", "content"}), and may have an `id` (default:
    file:number). A file may have records of both kinds. Only one record is held in memory, however large the file is.

    Kinds of malformed records, besides those of `Columns.document`: invalid_json, invalid_utf8, too_large; for a whole
    file empty_file; for the rest of a file truncated and corrupt.

    Args:
        path, data_root, weight, answer_share: see `FileSource`.
        text_column, conversations_column, max_bytes: see `Columns`.
    """

    def read_file(self, file: Path) -> Iterator[SourceRecord]:
        """See `FileSource`."""
        cut_off: RawRecord | None = None
        unit, number, found = "line", 0, False
        try:
            head, content = _head(read_chunks(file))
            unit, split = ("record", elements) if head.startswith(b"[") else ("line", lines)
            for raw in split(content, self.max_bytes):
                number, found = raw.number, True
                record = self._record(raw, f"{file}, {unit} {number}", f"{file.name}:{number}")
                unreadable = isinstance(record, MalformedRecord) and record.kind in ("invalid_json", "invalid_utf8")
                if unreadable and not raw.ended:
                    cut_off = raw
                else:
                    yield record
        except BrokenFileError as broken:
            yield MalformedRecord(broken.kind, f"{file}, {unit} {number}" if number else str(file), broken.reason)
            return
        if cut_off:
            reason = "the last line is not JSON and has no line break: the file is cut off"
            yield MalformedRecord("truncated", f"{file}, line {cut_off.number}", reason)
        elif not found:
            yield MalformedRecord("empty_file", str(file), "the file has no records")

    def _record(self, raw: RawRecord, where: str, default_id: str) -> SourceRecord:
        if raw.data is None:
            return MalformedRecord("too_large", where, f"a record of {raw.size:,} bytes, max_bytes={self.max_bytes:,}")
        if b"\0" in raw.data:
            return MalformedRecord("nul", where, "the record has a NUL byte")
        try:
            record = json.loads(raw.data.strip(WHITESPACE).decode())
        except UnicodeDecodeError as error:
            reason = f"invalid UTF-8: byte {error.start + 1} of the record is 0x{error.object[error.start]:02x}"
            return MalformedRecord("invalid_utf8", where, reason)
        except json.JSONDecodeError as error:
            return MalformedRecord(
                "invalid_json", where, f"invalid JSON: {error.msg} (character {error.pos + 1} of the record)"
            )
        except (ValueError, RecursionError) as error:  # a number with too many digits, or brackets nested too deep
            return MalformedRecord("invalid_json", where, f"JSON that cannot be read: {error}")
        return self.document(record, where, default_id)


def _head(content: Iterator[bytes]) -> tuple[bytes, Iterable[bytes]]:
    """Return the first bytes without leading white space, and the whole content without a byte order mark."""
    head = b""
    for chunk in content:
        head += chunk
        if len(head) >= len(_BYTE_ORDER_MARK) and head.strip(WHITESPACE):
            break
    head = head.removeprefix(_BYTE_ORDER_MARK)
    return head.lstrip(WHITESPACE), chain([head], content)
