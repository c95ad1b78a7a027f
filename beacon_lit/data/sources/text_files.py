"""Plain text and Markdown: one file is one document."""

from pathlib import Path

from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.sources.columns import Columns
from beacon_lit.data.sources.compressed import BrokenFileError, read_chunks
from beacon_lit.data.sources.files import Row, Rows
from beacon_lit.data.sources.utf8 import WAY_OUT, as_utf8


def read_text(file: Path, columns: Columns) -> Rows:
    """Yield the text of a file; malformed are a text of more than `max_bytes`, another encoding, a broken file."""
    parts, size = [], 0
    try:
        for chunk in as_utf8(read_chunks(file)):
            size += len(chunk)
            if size <= columns.max_bytes:
                parts.append(chunk)
        if size > columns.max_bytes:
            reason = f"a file of {size:,} bytes, max_bytes={columns.max_bytes:,}"
            yield MalformedRecord("too_large", str(file), reason)
            return
        yield Row({columns.names.get("text", "text"): b"".join(parts).decode()}, str(file), file.name)
    except BrokenFileError as broken:
        yield MalformedRecord(broken.kind, str(file), broken.reason)
    except UnicodeDecodeError as error:
        reason = f"invalid UTF-8: byte {error.start + 1} is 0x{error.object[error.start]:02x}; {WAY_OUT}"
        yield MalformedRecord("invalid_utf8", str(file), reason)
