"""Find the compression ratio of each window of a call: passed by the call, or chosen by the policy."""

from collections.abc import Sequence
from typing import Any

from beacon_lit.arch.config import BeaconConfig, check_ratio
from beacon_lit.arch.ratios import Ratio, RatioPolicy, Ratios
from beacon_lit.arch.ratios.fixed import Fixed
from beacon_lit.checks import as_tuple


def passed_ratios(ratios: Ratios, windows: Sequence[int], window: int) -> list[list[Ratio]]:
    """Spread the `ratios` that a call passed over its rows.

    Args:
        ratios: one ratio; a sequence, one per window, the open one included; or one sequence per row.
        windows: number of windows of each row.
        window: raw tokens per window, which ratios must divide.

    Raises:
        ValueError: a ratio is not allowed, a row has too few ratios, or there are not `len(windows)` rows.
    """
    given = as_tuple(ratios)
    if given == (ratios,):
        rows: list[list[Any]] = [[ratios] * count for count in windows]
    elif not any(is_row(entry) for entry in given):
        rows = [list(given) for _ in windows]
    else:
        rows = [list(as_tuple(entry)) for entry in given]
        if len(rows) != len(windows):
            raise ValueError(f"ratios={ratios!r} has {len(rows)} rows; the batch has {len(windows)}")
    for row, count in zip(rows, windows, strict=True):
        for ratio in row:
            check_ratio(ratio, window)
        if len(row) < count:
            raise ValueError(f"ratios={ratios!r} has {len(row)} entries for {count} windows; allowed: one per window")
    return [row[:count] for row, count in zip(rows, windows, strict=True)]


def is_row(entry: object) -> bool:
    """Whether an entry of `ratios` is itself a sequence: the ratios of one row."""
    return as_tuple(entry) != (entry,)


def policy_in(config: BeaconConfig, training: bool) -> RatioPolicy:
    """Return the policy of a model in training or eval mode; in eval mode `eval_ratio` takes precedence."""
    return config.policy if training or config.eval_ratio is None else Fixed(config.eval_ratio)


def adapt_ratio(config: BeaconConfig, length: int, positions: int) -> int:
    """Return the smallest ratio whose memory fits `positions` slots for `length` tokens, else the largest ratio."""
    return config.limits(positions).smallest(length)


def longest(config: BeaconConfig, ratio: int, positions: int) -> int:
    """Return the most raw tokens at one ratio, see `Limits.longest`."""
    return config.limits(positions).longest(ratio)
