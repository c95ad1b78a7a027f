"""Bytes in UTF-8 or, with a byte order mark, UTF-16 or UTF-32 -> UTF-8 without the mark."""

import codecs
from collections.abc import Iterable, Iterator
from itertools import chain

from beacon_lit.data.sources.compressed import BrokenFileError

# The mark of UTF-16 is the beginning of the mark of UTF-32, which therefore comes first.
_MARKS = {
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be",
}  # fmt: skip
_LONGEST = max(map(len, _MARKS))
WAY_OUT = "if the file is in another encoding, convert it, for example: iconv -f latin1 -t utf-8 OLD > NEW"


def as_utf8(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes of a file as UTF-8 without a byte order mark; what has no mark stays as it is, UTF-8 or not.

    Raises:
        BrokenFileError: bytes that the encoding of the mark does not allow; raised behind all bytes before these.
    """
    remaining, head = iter(chunks), b""
    while len(head) < _LONGEST and (chunk := next(remaining, b"")):
        head += chunk
    mark = next((mark for mark in _MARKS if head.startswith(mark)), b"")
    whole = chain([head[len(mark) :]], remaining)
    encoding = _MARKS.get(mark, "utf-8")
    yield from whole if encoding == "utf-8" else _transcoded(whole, encoding)


def _transcoded(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for chunk in chunks:
            yield decoder.decode(chunk).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        reason = f"the file begins with the mark of {encoding}, but has other bytes: {error}; the rest is lost"
        raise BrokenFileError("invalid_encoding", reason) from error
