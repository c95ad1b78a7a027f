"""Splits bytes into raw records, each of which should be one JSON value, without parsing them.

Records are found by line breaks or, in an array, by brackets and commas alone. So the records behind a malformed one
stay readable, and only one record is held in memory.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from beacon_lit.data.sources.compressed import BrokenFileError

WHITESPACE = b" \t\r\n"  # as in JSON
_STRUCTURE = re.compile(rb'["\[\]{},]')
_IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_QUOTE, _COMMA, _END_OF_ARRAY = b'",]'
_OPENING, _CLOSING = b"[{", b"]}"
_END_OF_CHUNK = -1


class RawRecord(NamedTuple):
    """The bytes of one record.

    Attributes:
        number: of the line or, in an array, of the record; from 1.
        data: the bytes; None if there are more than allowed.
        size: in bytes.
        ended: False for the last record of a file without a line break, comma or bracket behind the record.
    """

    number: int
    data: bytes | None
    size: int
    ended: bool = True

    @property
    def blank(self) -> bool:
        """Whether the record is white space alone."""
        return self.data is not None and not self.data.strip(WHITESPACE)


class _Gathered:
    """Collects the parts of a record that spans chunks; beyond `max_bytes` they are counted, not kept."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.size, self.parts = max_bytes, 0, list[bytes]()

    def add(self, part: bytes) -> None:
        self.size += len(part)
        if self.size <= self.max_bytes:
            self.parts.append(part)
        else:
            self.parts.clear()

    def take(self, number: int, ended: bool = True) -> RawRecord:
        data = b"".join(self.parts) if self.size <= self.max_bytes else None
        record = RawRecord(number, data, self.size, ended)
        self.size, self.parts = 0, []
        return record


def lines(chunks: Iterable[bytes], max_bytes: int) -> Iterator[RawRecord]:
    """Yield the lines that are not blank; an error of `chunks` is raised again behind the last line."""
    gathered, number, broken = _Gathered(max_bytes), 1, None
    try:
        for chunk in chunks:
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                gathered.add(end)
                if not (record := gathered.take(number)).blank:
                    yield record
                number += 1
            gathered.add(rest)
    except BrokenFileError as error:
        broken = error
    if not (record := gathered.take(number, ended=False)).blank:
        yield record
    if broken:
        raise broken


def elements(chunks: Iterable[bytes], max_bytes: int) -> Iterator[RawRecord]:
    """Yield the elements of the array at the start of `chunks`, blank ones (between two commas) included.

    Raises:
        BrokenFileError: `chunks` raised it, the array has no end, or something follows the array; raised behind the
            last element.
    """
    gathered, number, depth, start, broken, ended = _Gathered(max_bytes), 1, 0, 0, None, False
    try:
        for chunk, position, mark in _marks(chunks):
            if mark == _END_OF_CHUNK:
                gathered.add(chunk[start:])
                start = 0
            elif ended:
                continue
            elif mark in _OPENING:
                depth += 1
                start = position + 1 if depth == 1 else start
            elif depth > 1:
                depth -= mark in _CLOSING
            elif mark in (_COMMA, _END_OF_ARRAY):
                gathered.add(chunk[start:position])
                start, ended = position + 1, mark == _END_OF_ARRAY
                record = gathered.take(number)
                if not (ended and number == 1 and record.blank):  # an empty array
                    yield record
                number += 1
    except BrokenFileError as error:
        broken = error
    if not (record := gathered.take(number, ended=False)).blank:
        if ended:
            broken = BrokenFileError("invalid_json", "something follows the end of the array")
        else:
            yield record
    if broken or not ended:
        raise broken or BrokenFileError(
            "truncated", "the array has no end: the file is cut off, or a bracket is missing"
        )


def _marks(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Yield (chunk, position, character) of brackets and commas outside strings, and (chunk, length, -1) at its end."""
    in_string = escaped = False
    for chunk in chunks:
        position = 0
        while position < len(chunk):
            if escaped:
                escaped = False
            elif in_string:
                if (position := _end_of_string(chunk, position)) == len(chunk):
                    break
                in_string = chunk[position] != _QUOTE
                escaped = in_string  # a backslash is the chunk's last byte
            else:
                if not (found := _STRUCTURE.search(chunk, position)):
                    break
                position = found.start()
                if chunk[position] == _QUOTE:
                    in_string = True
                else:
                    yield chunk, position, chunk[position]
            position += 1
        yield chunk, len(chunk), _END_OF_CHUNK


def _end_of_string(chunk: bytes, position: int) -> int:
    found = _IN_STRING.match(chunk, position)
    assert found, "the pattern matches the empty string"
    return found.end()
