"""Decode by calls from cache to cache. A `Decoding` belongs to one generation and changes with every step."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.core import BeaconModel, read
from beacon_lit.arch.inference.start import open_window_mode
from beacon_lit.arch.plan.call import Call
from beacon_lit.arch.plan.rows import check_ids
from beacon_lit.arch.plan.state import RowState
from beacon_lit.arch.ratios import Ratio

# One ratio for all windows; a list per row, one ratio per window from the open one on; or None, the policy.
PerRow: TypeAlias = Ratio | list[list[Ratio]] | None


class Finished(StoppingCriteriaList):
    """Stopping criteria that record which rows have ended."""

    rows: Tensor | None = None  # (B,) bool

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return (B,) bool, the rows that end now."""
        ended = super().__call__(input_ids, scores, **kwargs)
        self.rows = ended if self.rows is None else self.rows | ended
        return ended


class Decoding:
    """Decodes one token per row and step, by calls from cache to cache. Works for every kind of cache.

    Args:
        lm: the model.
        cache: the cache to continue from.
        ratios: one for all windows; or a list per row, one ratio per window from the open one on, of which the last
            serves all further windows; or None, the policy.
        totals: raw tokens that each row will have, for policies that plan ahead.
        finished: records rows that have ended; these read nothing more.
        room: states that rows will be given by `replace`, for which buffers have room from the start.
        greedy: whether the next tokens are likely to be those of the greatest logits.
    """

    def __init__(
        self,
        lm: BeaconModel,
        cache: BeaconCache,
        ratios: PerRow,
        totals: Sequence[int] | None,
        finished: Finished | None,
        room: Sequence[RowState] = (),
        greedy: bool = False,
    ) -> None:
        self.lm, self.ratios, self.totals, self.finished, self.greedy = lm, ratios, totals, finished, greedy
        self._start(cache, room)

    def _start(self, cache: BeaconCache, room: Sequence[RowState]) -> None:
        """Take over the state that the cache holds."""
        self._cache = cache

    def step(self, ids: Tensor) -> Tensor:
        """Read one token per row: (B, 1) ids -> (B, 1, V) logits, of no meaning for rows that have ended."""
        rows = self._running(len(ids))
        if not rows:
            return self._no_logits(ids)
        whole = len(rows) == len(ids)
        hidden, after = self._read(ids, rows, self._cache if whole else self._cache.select(rows))
        self._cache = after if whole else self._cache.put(rows, after)
        return self._logits(ids, rows, hidden)

    def cache(self) -> BeaconCache:
        """Return a cache of all that has been read."""
        return self._cache

    def cache_of(self, row: int) -> BeaconCache:
        """Return a cache of all that one row has read."""
        return self._cache.select([row])

    def replace(self, rows: Sequence[int], cache: BeaconCache, places: Sequence[int]) -> None:
        """Let row `rows[i]` continue from another sequence, row `places[i]` of a cache, for every i."""
        self._cache = self._cache.put(rows, cache.select(places))

    def reorder(self, rows: Tensor) -> None:
        """Let row i continue from the state of row `rows[i]`. Used by beam search."""
        self._cache = self._cache.select(rows.tolist())
        self._reorder_ratios(rows)

    def _reorder_ratios(self, rows: Tensor) -> None:
        if isinstance(self.ratios, list):
            self.ratios = [self.ratios[row] for row in rows.tolist()]

    def _running(self, batch: int) -> list[int]:
        ended = [False] * batch if self.finished is None or self.finished.rows is None else self.finished.rows.tolist()
        return [row for row in range(batch) if not ended[row]]

    def _read(self, ids: Tensor, rows: Sequence[int], before: BeaconCache) -> tuple[Tensor, BeaconCache]:
        """Read the ids of some rows from a cache of these rows: their (n, D) hidden states, and the next cache."""
        lm = self.lm
        call = self._plan(rows, before)
        new = ids.cpu()[list(rows), 0]  # copied here, where the device waits anyway, not after the pass
        check_ids(new, lm.config.vocab_size, "input_ids")
        hidden, after = read(lm, new, call, before)
        assert after is not None
        self._use_ratios(rows, call.states, after.rows)
        return hidden, after

    def _plan(self, rows: Sequence[int], before: BeaconCache, new: int = 1) -> Call:
        """Plan a call that reads one token in each of some rows, or none and closes their full windows."""
        lm = self.lm
        draw = lm.draw if lm.training else None
        ratios, totals = of_rows(self.ratios, rows), of_rows(self.totals, rows)
        unfinished, more = open_window_mode(lm, None, before), [new == 0] * len(rows)
        return lm.plan([new] * len(rows), before, unfinished, ratios, draw, totals, more)

    def _use_ratios(self, rows: Sequence[int], before: Sequence[RowState], after: Sequence[RowState]) -> None:
        """Drop the ratios of windows that have closed in some rows."""
        if isinstance(self.ratios, list):
            for row, was, now in zip(rows, before, after, strict=True):
                self.ratios[row] = remaining(self.ratios[row], now.windows - was.windows)

    def _no_logits(self, ids: Tensor) -> Tensor:
        """Zero logits for a step that only other ranks need, as every row here has ended."""
        weight = self.lm.lm_head.weight
        return torch.zeros(len(ids), 1, self.lm.config.vocab_size, dtype=weight.dtype, device=weight.device)

    def _logits(self, ids: Tensor, rows: Sequence[int], hidden: Tensor) -> Tensor:
        logits = self.lm.logits(hidden)
        if len(rows) == len(ids):
            return logits[:, None]
        out = logits.new_zeros(len(ids), logits.shape[1])
        out[list(rows)] = logits
        return out[:, None]


def of_rows(values: Any, rows: Sequence[int]) -> Any:
    """Return the values of some rows of a list with one per row; anything else is for all rows."""
    return [values[row] for row in rows] if isinstance(values, list) else values


def remaining_ratios(ratios: PerRow, before: Sequence[RowState], after: Sequence[RowState]) -> PerRow:
    """Return the ratios of rows that have gone on from states `before` to states `after`."""
    if not isinstance(ratios, list):
        return ratios
    closed = [now.windows - was.windows for was, now in zip(before, after, strict=True)]
    return [remaining(row, count) for row, count in zip(ratios, closed, strict=True)]


def remaining(ratios: Sequence[Ratio], closed: int) -> list[Ratio]:
    """Return one row's ratios after `closed` windows, at least two; the last ratio serves all further windows."""
    rest = list(ratios[min(closed, len(ratios) - 1) :])
    return rest if len(rest) > 1 else rest * 2
