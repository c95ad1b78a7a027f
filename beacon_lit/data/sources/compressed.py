"""Reads the bytes of a plain or compressed file in chunks, up to the place where the file is broken."""

import bz2
import gzip
import lzma
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beacon_lit.data.records import MalformedError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CHUNK = 2**18
OPENERS = {".gz": gzip.open, ".zst": zstd.open, ".xz": lzma.open, ".bz2": bz2.open}  # by suffix


class BrokenFileError(MalformedError):
    """The rest of a file cannot be read."""


def read_chunks(file: Path) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file, some hundred KiB at a time; the suffix tells the compression.

    Raises:
        BrokenFileError: the file is truncated or corrupt; raised behind all bytes that could be read.
        ValueError: the file cannot be opened.
    """
    size = file.stat().st_size
    if not size:
        return
    try:
        with _open(file) as stream:
            # read() would lose the bytes that are already decompressed where the file ends too early.
            while chunk := stream.read1(_CHUNK):
                yield chunk
    except EOFError as error:
        raise BrokenFileError("truncated", "the compressed file is cut off, and the rest is lost") from error
    except (OSError, zlib.error, zstd.ZstdError, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the file system, not of the content
            raise ValueError(f"{file} cannot be read: {error}") from error
        kind = "corrupt" if size > 1 else "truncated"  # one byte is less than the magic number of gzip
        reason = f"the compressed file is damaged: {error}; the rest is lost, and earlier records may be wrong"
        raise BrokenFileError(kind, reason) from error


def _open(file: Path) -> Any:
    opener: Any = OPENERS.get(file.suffix.lower(), open)
    return opener(file, "rb")
