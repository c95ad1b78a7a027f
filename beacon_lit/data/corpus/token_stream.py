"""The documents of a source as one stream of tokens with a position."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class TokenPosition:
    """How far a source has been used. The names of the fields are part of `shard.json`.

    Attributes:
        documents: documents that are used up.
        offset: tokens used of the next document.
        lengths: number of documents begun, by the bin of their length; see `length_bin`.
        bad: malformed records by kind, up to the first document that was not begun.
        rest: tokens left of the documents begun.
    """

    documents: int = 0
    offset: int = 0
    lengths: Mapping[str, int] = field(default_factory=dict)
    bad: Mapping[str, int] = field(default_factory=dict)
    rest: int = 0


@dataclass(frozen=True, eq=False)
class DocumentTokens:
    """The tokens of a document.

    Attributes:
        ids: (L,) int32, token ids.
        malformed: malformed records of the source by kind, up to the next document.
    """

    ids: np.ndarray
    malformed: Mapping[str, int]


class TokenStream:
    """Takes tokens from documents that stand one behind the other.

    Args:
        documents: the source's documents from number `start.documents` on.
        start: where to continue.
    """

    def __init__(self, documents: Iterable[DocumentTokens], start: TokenPosition) -> None:
        self._documents: Iterator[DocumentTokens] = iter(documents)
        self._open: deque[np.ndarray] = deque()  # whole documents that were begun
        self._done = start.documents
        self._offset = start.offset
        self._lengths = dict(start.lengths)
        self._malformed = start.bad
        self._available = 0
        if start.offset:
            self._pull(count=False)
            self._available -= start.offset

    @property
    def available(self) -> int:
        """Tokens left of the documents begun; of the whole source once `take` has returned None."""
        return self._available

    @property
    def position(self) -> TokenPosition:
        """The position behind the tokens that were taken."""
        lengths = dict(sorted(self._lengths.items()))
        return TokenPosition(self._done, self._offset, lengths, self._malformed, self._available)

    def take(self, count: int) -> np.ndarray | None:
        """Take the next `count` ids, (count,) int32; None if the source has fewer."""
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
        self._malformed = document.malformed
        if count:
            name = str(length_bin(len(document.ids)))
            self._lengths[name] = self._lengths.get(name, 0) + 1
        return True


def length_bin(length: int) -> int:
    """Return i of the bin [2**(i / 2), 2**((i + 1) / 2)) that a length is in."""
    bits = length.bit_length()
    return max(0, 2 * (bits - 1)) + (length * length >= 2 ** max(1, 2 * bits - 1))
