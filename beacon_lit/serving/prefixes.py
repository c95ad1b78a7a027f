"""What was read for earlier requests, in memory: a prompt that begins like an earlier one goes on from its cache.

Used by the worker's thread alone.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from beacon_lit.chat import saved
from beacon_lit.chat.reading import Reading
from beacon_lit.chat.tokenizing import TokenizedText, common_prefix, tokenize

_BOUNDARIES, _OTHERS = 4, 2  # marks that an entry keeps: ends of documents and the like, and others


@dataclass(frozen=True, eq=False)
class Prefix:
    """The beginning of a prompt.

    Attributes:
        tokenized: the prompt's text and its ids; empty if the prompt was given as ids.
        reading: what has been read.
        blocks: bytes of each block of memory that its caches use, by address; caches share some.
    """

    tokenized: TokenizedText
    reading: Reading
    blocks: dict[int, int]


class Prefixes:
    """The beginnings of prompts that were used last.

    Args:
        limit: most bytes of all caches together; beyond it, the beginnings that were used least recently are dropped.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._entries: list[Prefix] = []  # least recently used first
        self._users: Counter[int] = Counter()  # number of entries that use a block

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._entries)

    def tokenize(self, text: str, tokenizer: Any) -> TokenizedText:
        """Tokenise a text, only the part behind its longest known beginning."""
        known = max((entry.tokenized for entry in self), key=lambda one: common_prefix(one.text, text), default=None)
        return tokenize(text, tokenizer, known)

    def find(self, ids: list[int]) -> tuple[Reading, int]:
        """Return the reading that has got furthest in `ids`, and how many ids they have in common with any reading."""
        shared = [(common_prefix(entry.reading.ids, ids), entry) for entry in self]
        best, used = Reading(), None
        for common, entry in sorted(shared, key=lambda pair: pair[0], reverse=True):
            if common <= len(best.ids):
                break
            reached = entry.reading.back_to(ids)
            if len(reached.ids) > len(best.ids):
                best, used = reached, entry
        if used is not None:
            self._entries.remove(used)
            self._entries.append(used)
        return best, max((common for common, _ in shared), default=0)

    def add(self, tokenized: TokenizedText, reading: Reading) -> None:
        """Keep a reading, in place of those that it continues."""
        if reading.cache is None:
            return
        reading = thinned(reading)
        caches = {id(mark.cache) for mark in reading.marks}
        for entry in [entry for entry in self if id(entry.reading.cache) in caches]:
            self._drop(entry)
        self._keep(Prefix(tokenized, reading, _blocks(reading)))
        while self.nbytes > self.limit:
            self._drop(self._entries[0])

    def _keep(self, entry: Prefix) -> None:
        self._entries.append(entry)
        self.nbytes += sum(size for address, size in entry.blocks.items() if not self._users[address])
        self._users.update(entry.blocks.keys())

    def _drop(self, entry: Prefix) -> None:
        self._entries.remove(entry)
        self._users.subtract(entry.blocks.keys())
        self.nbytes -= sum(size for address, size in entry.blocks.items() if not self._users[address])
        self._users += Counter()  # without zeros

    def save(self, folder: Path, tokenizer: Any) -> None:
        """Write everything into a folder, for `load`."""
        for i, entry in enumerate(self):
            chat = {"messages": [], "documents": [entry.tokenized.text], "template": {}}
            saved.save(folder / f"{i:06}", chat, entry.reading, tokenizer)

    def load(
        self, folder: Path, lm: Any, tokenizer: Any, usable: Callable[[Reading], bool] = lambda reading: True
    ) -> None:
        """Read what `save` wrote, as far as it belongs to this model and is `usable`, and remove the folder."""
        for one in sorted(folder.glob("*")):
            with suppress(ValueError):
                found, reading = saved.load(one, lm, tokenizer)
                if usable(reading):
                    self.add(tokenize(found["documents"][0], tokenizer), reading)
        shutil.rmtree(folder, ignore_errors=True)

    def clear(self) -> None:
        """Drop everything."""
        self._entries, self.nbytes = [], 0
        self._users.clear()


def thinned(reading: Reading) -> Reading:
    """Keep only the marks that are worth their memory: the last boundaries, and the last few others."""
    boundaries = [mark for mark in reading.marks if mark.document][-_BOUNDARIES:]
    others = [mark for mark in reading.marks if not mark.document][-_OTHERS:]
    return replace(reading, marks=tuple(sorted([*boundaries, *others], key=lambda mark: mark.tokens)))


def _blocks(reading: Reading) -> dict[int, int]:
    blocks = (tensor.untyped_storage() for mark in reading.marks for tensor in mark.cache.tensors)
    return {block.data_ptr(): block.nbytes() for block in blocks}
