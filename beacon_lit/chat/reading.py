"""What a chat has read: token ids, and the caches that stand at some places among them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from beacon_lit.arch import Ratio, Ratios
from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.config import as_tuple, check_ratio
from beacon_lit.chat.tokens import common_prefix

HELD_BACK = 32  # tokens at the end of what is known, which what follows may still change


@dataclass(frozen=True, eq=False)
class Mark:
    """A place that can be gone back to.

    Attributes:
        tokens: how many ids the cache has read.
        cache: it.
        document: whether a document ends there, which would take long to read again.
    """

    tokens: int
    cache: BeaconCache
    document: bool = False


@dataclass(frozen=True, eq=False)
class Reading:
    """A value: reading on gives another one.

    Attributes:
        ids: the token ids that the newest mark's cache has read.
        marks: ascending; the ids of each are the first of `ids`.
        ratios: one per window of the sequence; the last goes on. Empty for the model's policy.
    """

    ids: list[int] = field(default_factory=list)
    marks: tuple[Mark, ...] = ()
    ratios: tuple[Ratio, ...] = ()

    @property
    def cache(self) -> BeaconCache | None:
        """The newest cache; None if nothing has been read."""
        return self.marks[-1].cache if self.marks else None

    def back_to(self, ids: list[int]) -> "Reading":
        """From where to read on if the text is `ids`: the newest place up to which they are those that were read."""
        common = common_prefix(self.ids, ids)
        marks = tuple(mark for mark in self.marks if mark.tokens <= common)
        for mark in self.marks[len(marks) :]:
            beyond = mark.tokens - common
            if common > (marks[-1].tokens if marks else 0) and beyond <= len(
                mark.cache.rows[0].open_ids
            ):  # its own window is what differs
                marks += (replace(mark, tokens=common, cache=mark.cache.rollback(beyond)),)
                break
        return replace(self, ids=ids[: marks[-1].tokens if marks else 0], marks=marks)

    def at_ratios(self, ratios: Ratios | None, window: int) -> "Reading":
        """The same, with these ratios from the window on that is open now; None leaves them as they are.

        Raises:
            ValueError: a ratio that is not allowed.
        """
        given = () if ratios is None else as_tuple(ratios)
        for ratio in given:
            check_ratio(ratio, window)
        if not given:
            return self
        opened = self._windows
        before = self.ratios[:opened]
        return replace(self, ratios=(*before, *(before or given)[-1:] * (opened - len(before)), *given))

    def ratios_of(self, tokens: int, window: int) -> Ratio | list[Ratio] | None:
        """Ratios of the windows that so many more tokens touch, as the model takes them."""
        if len(set(self.ratios)) < 2:
            return self.ratios[0] if self.ratios else None
        left = self.ratios[self._windows :] or self.ratios[-1:]
        return [*left, *left[-1:] * (tokens // window + 2 - len(left))]

    def check_room(self, lm: Any, tokens: int) -> None:
        """The model's ValueError if so many more tokens do not fit its positions, or no ratio is chosen for them."""
        cache = self.cache
        mode = lm.beacon.unfinished if cache is None else cache.unfinished
        seen = 0 if cache is None else cache.seen_tokens
        ratios = self.ratios_of(tokens, lm.beacon.window)
        lm.plan([tokens], cache, mode, ratios, None, [seen + tokens])

    def read(self, lm: Any, ids: list[int], document: bool = False) -> Iterator["Reading"]:
        """Read up to the end of `ids`, which begin with those read so far; yields what is reached after every chunk.

        Raises:
            ValueError: see `check_room`; nothing has been read then.
        """
        new = len(ids) - len(self.ids)
        if new <= 0:
            return
        self.check_room(lm, new)
        tensor = torch.tensor([ids[len(self.ids) :]], device=lm.device)
        for cache, _ in lm.compress_iter(tensor, cache=self.cache, ratios=self.ratios_of(new, lm.beacon.window)):
            yield self.marked(ids[: cache.seen_tokens], cache, document)

    def marked(self, ids: list[int], cache: BeaconCache, document: bool = False) -> "Reading":
        """The same with one mark more, of a cache that has read `ids`."""
        assert cache.seen_tokens == len(ids)
        return replace(self, ids=ids, marks=(*self.marks, Mark(len(ids), cache, document)))

    def settled(self) -> "Reading":
        """The same with the marks that are worth their memory: the last document's, and the last two others."""
        documents = [mark for mark in self.marks if mark.document][-1:]
        others = [mark for mark in self.marks if not mark.document][-2:]
        return replace(self, marks=tuple(sorted([*documents, *others], key=lambda mark: mark.tokens)))

    @property
    def _windows(self) -> int:
        return 0 if self.cache is None else self.cache.rows[0].windows
