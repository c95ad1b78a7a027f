"""Documents in JSON files."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from beacon_lit.data.records import BadRecord, Document
from beacon_lit.data.sources.compressed import BrokenFileError, chunks
from beacon_lit.data.sources.record_files import RecordFiles
from beacon_lit.data.sources.splitting import WHITESPACE, Piece, elements, lines

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class JsonSource(RecordFiles):
    """Documents in JSON files: one record per line, or one array per file; plain, .gz or .zst; in UTF-8.

    A record is an object with `text` or `conversations` (list of {"role", "content"}), and may have an `id` (default:
    file:number). Records of both kinds may share a file. However large a file is, one record of it is held at a time.

    path, data_root, weight, answer_share: see `FileSource`
    text_column, conversations_column, max_bytes: see `Columns`

    Kinds of bad records, besides those of `Columns.document`: invalid_json, invalid_utf8, too_large; of files:
    empty_file; truncated, corrupt (what came before is kept).
    """

    def read_file(self, file: Path) -> Iterator[Document | BadRecord]:
        """See `FileSource`."""
        cut_off: Piece | None = None
        unit, number, found = "line", 0, False
        try:
            head, content = _head(chunks(file))
            unit, split = ("record", elements) if head.startswith(b"[") else ("line", lines)
            for piece in split(content, self.max_bytes):
                number, found = piece.number, True
                record = self._record(piece, f"{file}, {unit} {number}", f"{file.name}:{number}")
                unreadable = isinstance(record, BadRecord) and record.kind in ("invalid_json", "invalid_utf8")
                if unreadable and not piece.ended:
                    cut_off = piece
                else:
                    yield record
        except BrokenFileError as broken:
            yield BadRecord(broken.kind, f"{file}, {unit} {number}" if number else str(file), broken.reason)
            return
        if cut_off:
            reason = "the last line is no JSON and has no line break: the file is cut off"
            yield BadRecord("truncated", f"{file}, line {cut_off.number}", reason)
        elif not found:
            yield BadRecord("empty_file", str(file), "the file has no records")

    def _record(self, piece: Piece, where: str, default_id: str) -> Document | BadRecord:
        if piece.data is None:
            return BadRecord("too_large", where, f"a record of {piece.size:,} bytes, max_bytes={self.max_bytes:,}")
        if b"\0" in piece.data:
            return BadRecord("nul", where, "the record has a NUL byte")
        try:
            record = json.loads(piece.data.strip(WHITESPACE).decode())
        except UnicodeDecodeError as error:
            reason = f"invalid UTF-8: byte {error.start + 1} of the record is 0x{error.object[error.start]:02x}"
            return BadRecord("invalid_utf8", where, reason)
        except json.JSONDecodeError as error:
            return BadRecord(
                "invalid_json", where, f"invalid JSON: {error.msg} (character {error.pos + 1} of the record)"
            )
        except (ValueError, RecursionError) as error:  # a number of too many digits, brackets nested too deep
            return BadRecord("invalid_json", where, f"JSON that cannot be read: {error}")
        return self.document(record, where, default_id)


def _head(content: Iterator[bytes]) -> tuple[bytes, Iterable[bytes]]:
    """The first bytes that are not white space, and all of the content but for a byte order mark."""
    head = b""
    for chunk in content:
        head += chunk
        if len(head) >= len(_BYTE_ORDER_MARK) and head.strip(WHITESPACE):
            break
    head = head.removeprefix(_BYTE_ORDER_MARK)
    return head.lstrip(WHITESPACE), chain([head], content)
