"""A model under one mode: the ratio of each text, and what all ways to ask a model share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from beacon_lit.arch import longest
from beacon_lit.evaluation.modes import Mode
from beacon_lit.evaluation.task import Subject


class TooLong(ValueError):
    """A text has more tokens than the model's positions hold at a ratio."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A subject under one mode.

    Args:
        subject: the model and its tokenizer.
        mode: how the model reads.
    """

    subject: Subject
    mode: Mode

    def ratios_of(self, lengths: Sequence[int]) -> list[Any]:
        """Choose the ratio of each text.

        Args:
            lengths: tokens of each text, answers included.

        Returns:
            For each text an int, "drop" (window-only) or None (dense).

        Raises:
            TooLong: the model's positions do not hold a text at its ratio.
        """
        lm = self.subject.lm
        ratios = [self.mode.ratio_of(lm, length) for length in lengths]
        for length, ratio in zip(lengths, ratios, strict=True):
            if isinstance(ratio, int) and length > (most := longest(lm.beacon, ratio, lm.positions)):
                window = lm.beacon.window
                larger = (other for other in range(ratio + 1, window + 1) if window % other == 0)
                fits = next((other for other in larger if length <= longest(lm.beacon, other, lm.positions)), None)
                raise TooLong(
                    f"{length} tokens, with the room for an answer, are too many at ratio {ratio}; allowed: at most "
                    f"{most}, for which {lm.positions} position slots are enough"
                    + (f", or ratio={fits}, the smallest that fits" if fits else "; no ratio fits them")
                )
        return ratios

    def per_window(self, ratios: Sequence[Any], length: int) -> Any:
        """Write the ratios of rows as the model takes them.

        Args:
            ratios: one per row.
            length: tokens of the longest row, answer included.

        Returns:
            One ratio if all rows have the same, else for each row a list with one ratio per window.
        """
        windows = length // self.subject.lm.beacon.window + 1
        return ratios[0] if len(set(ratios)) == 1 else [[ratio] * windows for ratio in ratios]

    def cache_bytes(self, cache: Any, tokens: Sequence[int]) -> list[int]:
        """Count the bytes of what later tokens see of each row: keys and values, and hidden states of open windows.

        Args:
            cache: a `BeaconCache` of all rows; the dense model's is not looked at.
            tokens: tokens of each row.
        """
        if self.mode.is_dense:
            return [self.subject.lm.dense_cache_bytes(count) for count in tokens]
        return [cache.select([row]).visible.nbytes for row in range(len(tokens))]


def padded(rows: Sequence[Sequence[int]], left: bool) -> tuple[Tensor, Tensor]:
    """Pad rows of ids to one length, on the left or on the right.

    Returns:
        (B, L) ids and (B, L) mask, both int64 on the CPU.
    """
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return ids, mask


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Yield a list to which the seconds of the block are added at its end.

    A timed block must end with its results on the CPU: a GPU has then finished.
    """
    seconds: list[float] = []
    start = perf_counter()
    yield seconds
    seconds.append(perf_counter() - start)
