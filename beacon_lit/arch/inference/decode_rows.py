"""Decode rows that come and go: each joins with a cache of its own, and leaves with the cache that it has reached."""

from collections.abc import Mapping

import torch
from torch import Tensor

from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.inference.decode import Decoding, Finished
from beacon_lit.arch.inference.decode_static import start_decoding
from beacon_lit.arch.inference.start import empty_cache
from beacon_lit.arch.ratios import Ratio


class RowDecoding:
    """Decodes one token per row and step, of up to `size` rows at a time, whatever their sequences and lengths.

    Buffers exist from the first row that joins until the last one leaves. All calls are made by one thread.

    Args:
        lm: the model, in eval mode.
        size: most rows at a time.
        ratio: ratio of windows that close; None: the model's policy.
    """

    def __init__(self, lm: BeaconModel, size: int, ratio: Ratio | None = None) -> None:
        self.lm, self.size, self.ratio = lm, size, ratio
        self.rows: set[int] = set()
        self._decoding: Decoding | None = None

    def join(self, cache: BeaconCache, total: int) -> int:
        """Let a sequence join.

        Args:
            cache: one row, which has read all but the next token.
            total: raw tokens that the sequence will have at most, for policies that plan ahead.

        Returns:
            the number of its row, which is free again once it leaves.
        """
        assert len(cache.rows) == 1 and cache.rows[0].capacity <= self.lm.beacon.window and len(self.rows) < self.size
        row = min(set(range(self.size)) - self.rows)
        if self._decoding is None:
            self._ended, self._totals = Finished(), [0] * self.size
            self._ended.rows = torch.ones(self.size, dtype=torch.bool)
            empty = empty_cache(self.lm, self.size)
            self._decoding = start_decoding(self.lm, empty, self.ratio, self._totals, self._ended, cache.rows)
        self._decoding.replace([row], cache, [0])
        self._totals[row], self._ended.rows[row] = total, False  # type: ignore[index]
        self.rows.add(row)
        return row

    @torch.no_grad()
    def step(self, tokens: Mapping[int, int]) -> dict[int, Tensor]:
        """Read one token in each of the rows; the others wait.

        Args:
            tokens: the next token id of each row.

        Returns:
            for each of these rows (V,) logits.
        """
        assert self._decoding is not None and self._ended.rows is not None and set(tokens) <= self.rows
        self._ended.rows[:] = True
        self._ended.rows[list(tokens)] = False
        ids = torch.zeros(self.size, 1, dtype=torch.int64, device=self.lm.device)
        ids[list(tokens), 0] = torch.tensor(list(tokens.values()), device=ids.device)
        logits = self._decoding.step(ids)[:, 0]
        return {row: logits[row].clone() for row in tokens}

    def leave(self, row: int) -> BeaconCache:
        """Let a sequence leave, and return the cache of all that it has read."""
        assert self._decoding is not None
        try:
            return self._decoding.cache_of(row)
        finally:  # also without memory for the cache
            self.rows.remove(row)
            if not self.rows:
                self._decoding = None

    def clear(self) -> None:
        """Let all sequences leave, and free the buffers."""
        self.rows, self._decoding = set(), None
