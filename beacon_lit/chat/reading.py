"""What a chat has read: token ids, and caches of some of their beginnings."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from beacon_lit.arch import BeaconCache, Ratio, Ratios, check_ratio
from beacon_lit.chat.tokenizing import common_prefix
from beacon_lit.checks import as_tuple

HELD_BACK = 32  # last known tokens, which the text behind them may still change


@dataclass(frozen=True, eq=False)
class Mark:
    """A place to which reading can return.

    Attributes:
        tokens: number of token ids that the cache has read.
        cache: the cache at this place.
        document: whether a document ends here, which takes long to read again.
    """

    tokens: int
    cache: BeaconCache
    document: bool = False


@dataclass(frozen=True, eq=False)
class Reading:
    """The state of reading: a value, which reading further does not change.

    Attributes:
        ids: the token ids that the newest mark's cache has read.
        marks: in ascending order; the cache of each has read the first `tokens` of `ids`.
        ratios: one per window of the sequence; the last applies to all later windows. Empty = the model's policy.
    """

    ids: list[int] = field(default_factory=list)
    marks: tuple[Mark, ...] = ()
    ratios: tuple[Ratio, ...] = ()

    @property
    def cache(self) -> BeaconCache | None:
        """The newest cache; None if nothing has been read."""
        return self.marks[-1].cache if self.marks else None

    def back_to(self, ids: list[int]) -> "Reading":
        """Return to the newest place from which the text `ids` can be read: all ids before were read already."""
        common = common_prefix(self.ids, ids)
        marks = tuple(mark for mark in self.marks if mark.tokens <= common)
        for mark in self.marks[len(marks) :]:
            beyond = mark.tokens - common
            opened = len(mark.cache.rows[0].open_ids)
            if common > (marks[-1].tokens if marks else 0) and beyond <= opened:  # only the open window differs
                marks += (replace(mark, tokens=common, cache=mark.cache.rollback(beyond)),)
                break
        return replace(self, ids=ids[: marks[-1].tokens if marks else 0], marks=marks)

    def at_ratios(self, ratios: Ratios | None, window: int) -> "Reading":
        """Change the ratios from the open window on; None leaves the ratios unchanged.

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
        """Return the ratios of the windows that the next `tokens` touch, in the form that the model takes."""
        if len(set(self.ratios)) < 2:
            return self.ratios[0] if self.ratios else None
        left = self.ratios[self._windows :] or self.ratios[-1:]
        return [*left, *left[-1:] * (tokens // window + 2 - len(left))]

    def check_room(self, lm: Any, tokens: int) -> None:
        """Raise the model's ValueError if `tokens` more do not fit its positions, or if no ratio is chosen for them."""
        cache = self.cache
        unfinished = lm.beacon.unfinished if cache is None else cache.unfinished
        seen = 0 if cache is None else cache.seen_tokens
        ratios = self.ratios_of(tokens, lm.beacon.window)
        lm.plan([tokens], cache, unfinished, ratios, None, [seen + tokens])

    def read(self, lm: Any, ids: list[int], document: bool = False, **options: Any) -> Iterator["Reading"]:
        """Read up to the end of `ids`, which begin with the ids read so far; yield the state after every chunk.

        Args:
            lm: the model.
            ids: token ids.
            document: whether a document ends there.
            options: of `BeaconLM.compress_iter`.

        Raises:
            ValueError: see `check_room`; nothing is read then.
        """
        new = len(ids) - len(self.ids)
        if new <= 0:
            return
        self.check_room(lm, new)
        tensor = torch.tensor([ids[len(self.ids) :]], device=lm.device)
        ratios = self.ratios_of(new, lm.beacon.window)
        for cache, _ in lm.compress_iter(tensor, cache=self.cache, ratios=ratios, **options):
            yield self.marked(ids[: cache.seen_tokens], cache, document)

    def marked(self, ids: list[int], cache: BeaconCache, document: bool = False) -> "Reading":
        """Add the mark of a cache that has read `ids`."""
        assert cache.seen_tokens == len(ids)
        return replace(self, ids=ids, marks=(*self.marks, Mark(len(ids), cache, document)))

    def settled(self) -> "Reading":
        """Keep only the marks that are worth their memory: the last document's, and the last two others."""
        documents = [mark for mark in self.marks if mark.document][-1:]
        others = [mark for mark in self.marks if not mark.document][-2:]
        return replace(self, marks=tuple(sorted([*documents, *others], key=lambda mark: mark.tokens)))

    @property
    def _windows(self) -> int:
        return 0 if self.cache is None else self.cache.rows[0].windows
