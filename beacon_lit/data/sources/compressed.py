"""A file's bytes in chunks, plain, gzip or Zstandard, up to where it is broken."""

import gzip
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CHUNK = 2**18
_OPENERS = {".gz": gzip.open, ".zst": zstd.open}


class BrokenFileError(Exception):
    """The rest of a file cannot be read. `kind` and `reason`: see `beacon_lit.data.records.BadRecord`."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


def chunks(file: Path) -> Iterator[bytes]:
    """The decompressed bytes of a file, a few hundred KiB at a time; its suffix (.gz, .zst) tells the compression.

    Raises, after all that could be read: BrokenFileError, of kind truncated or corrupt; ValueError if the file could
    not be read at all.
    """
    size = file.stat().st_size
    if not size:
        return
    try:
        with _open(file) as stream:
            # Not read(): where the file ends too early that loses what it has already decompressed.
            while chunk := stream.read1(_CHUNK):
                yield chunk
    except EOFError as error:
        raise BrokenFileError("truncated", "the compressed file is cut off; what was in the rest is lost") from error
    except (gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
        kind = "corrupt" if size > 1 else "truncated"  # within the two bytes that tell gzip
        reason = f"the compressed file is damaged: {error}; the rest is lost, and records before may be wrong"
        raise BrokenFileError(kind, reason) from error
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _open(file: Path) -> Any:
    opener: Any = _OPENERS.get(file.suffix, open)
    return opener(file, "rb")
