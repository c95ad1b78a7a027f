"""The documents of a source as one stream of tokens that knows its position."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Position:
    """What of a source has been used.

    documents: those used to their end
    offset: tokens used of the next one
    lengths: documents begun, by length: 2n counts those from 2**n tokens on, 2n + 1 those from 2**(n + 0.5) on
    bad: bad records by kind, up to the first document not begun
    rest: tokens left of what has been begun
    """

    documents: int = 0
    offset: int = 0
    lengths: Mapping[str, int] = field(default_factory=dict)
    bad: Mapping[str, int] = field(default_factory=dict)
    rest: int = 0


@dataclass(frozen=True, eq=False)
class Tokens:
    """ids: (L,) int32, a document
    bad: bad records by kind, up to the next
    """

    ids: np.ndarray
    bad: Mapping[str, int]


class TokenStream:
    """Takes tokens from documents, one behind the other.

    documents: those from `start.documents` on
    start: where to go on
    """

    def __init__(self, documents: Iterable[Tokens], start: Position) -> None:
        self._documents: Iterator[Tokens] = iter(documents)
        self._start = start
        self._open: deque[np.ndarray] = deque()  # documents begun, whole
        self._done = start.documents
        self._offset = start.offset
        self._lengths = dict(start.lengths)
        self._bad = start.bad
        self._available = 0
        if start.offset:
            self._pull(count=False)
            self._available -= start.offset

    @property
    def available(self) -> int:
        """Tokens left of the documents begun; once `take` has given None, of the source."""
        return self._available

    @property
    def position(self) -> Position:
        return Position(self._done, self._offset, dict(sorted(self._lengths.items())), self._bad, self._available)

    def take(self, count: int) -> np.ndarray | None:
        """The next `count` ids, (count,) int32; None if the source has fewer."""
        while self._available < count:
            if not self._pull():
                return None
        parts = []
        self._available -= count
        while count:
            part = self._open[0][self._offset : self._offset + count]
            parts.append(part)
            count -= len(part)
            self._offset += len(part)
            if self._offset == len(self._open[0]):
                self._open.popleft()
                self._done, self._offset = self._done + 1, 0
        return np.concatenate(parts)

    def _pull(self, count: bool = True) -> bool:
        document = next(self._documents, None)
        if document is None:
            return False
        self._open.append(document.ids)
        self._available += len(document.ids)
        self._bad = document.bad
        if count:
            name = str(length_bin(len(document.ids)))
            self._lengths[name] = self._lengths.get(name, 0) + 1
        return True


def length_bin(length: int) -> int:
    """Which of the bins [2**(i / 2), 2**((i + 1) / 2)) a length is in."""
    bits = length.bit_length()
    return max(0, 2 * (bits - 1)) + (length * length >= 2 ** max(1, 2 * bits - 1))
