"""Which compression ratio each window gets."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from beacon_lit.arch.config import BeaconConfig, as_tuple, check_ratio

Ratio: TypeAlias = int | str  # α >= 1, 0 (keep the window raw) or "drop"
Ratios: TypeAlias = Ratio | Sequence[Ratio] | Sequence[Sequence[Ratio]]


@dataclass(frozen=True)
class Draw:
    """The counter behind random ratios: same counter, same ratios, so a resumed run repeats them.

    A draw depends on these three, the row of the batch and the window; never on other rows or on a generator's state.
    """

    seed: int = 0
    rank: int = 0
    step: int = 0

    def next(self) -> "Draw":
        """The counter of the following step."""
        return replace(self, step=self.step + 1)

    def pick(self, row: int, window: int, choices: Sequence[int]) -> int:
        """One of `choices`, uniformly."""
        key = f"{self.seed}/{self.rank}/{self.step}/{row}/{window}".encode()
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
        return choices[number % len(choices)]


def passed_ratios(ratios: Ratios, windows: Sequence[int], window: int) -> list[list[Ratio]]:
    """Spread what a call passed as `ratios` over its rows.

    Args:
        ratios: one ratio; a sequence, one per window, the open one included; or one sequence per row.
        windows: number of windows of each row.
        window: raw tokens per window, which ratios must divide.

    Raises:
        ValueError: a ratio is not allowed, a row has too few, or the rows are not `len(windows)`.
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
            raise ValueError(f"ratios={ratios!r} has {len(row)} entries for {count} windows; one per window is needed")
    return [row[:count] for row, count in zip(rows, windows, strict=True)]


def is_row(entry: object) -> bool:
    """Whether an entry of `ratios` is itself a sequence, the ratios of one row."""
    return as_tuple(entry) != (entry,)


def policy_ratios(
    config: BeaconConfig,
    lengths: Sequence[int],
    windows: Sequence[int],
    positions: int,
    draw: Draw | None,
    adapted: Sequence[int | None] = (),
) -> list[list[Ratio]]:
    """Ratios by the config's policy.

    Args:
        config: the beacon settings.
        lengths: raw tokens of each row.
        windows: number of windows of each row.
        positions: position slots that the backbone supports (for "adapt-N").
        draw: the counter of a training step; None in eval mode, where nothing random happens.
        adapted: what "adapt-N" chose for each row before, if it did.

    Raises:
        ValueError: eval mode with a random policy, several ratios and no `eval_ratio`.
    """
    if draw is None and config.eval_ratio is not None:
        return [[config.eval_ratio] * count for count in windows]
    if len(config.ratios) == 1:
        return [[config.ratios[0]] * count for count in windows]
    if config.adapt is not None:
        before = adapted or [None] * len(lengths)
        chosen = [
            old or adapt_ratio(config, n + config.adapt, positions) for old, n in zip(before, lengths, strict=True)
        ]
        return [[ratio] * count for ratio, count in zip(chosen, windows, strict=True)]
    if config.ratio_policy == "cycle":
        return [[config.ratios[i % len(config.ratios)] for i in range(count)] for count in windows]
    if draw is None:
        raise ValueError(
            f"ratio_policy={config.ratio_policy!r} draws in training only; in eval mode pass ratios= (one of "
            f"{', '.join(map(str, config.ratios))}, 0, 'drop', or one per window) or set eval_ratio"
        )
    per_window = config.ratio_policy == "random"
    fitting = [[r for r in config.ratios if length <= longest(config, r, positions)] for length in lengths]
    return [
        [draw.pick(row, i if per_window else 0, choices or config.ratios) for i in range(count)]
        for row, (count, choices) in enumerate(zip(windows, fitting, strict=True))
    ]


def adapt_ratio(config: BeaconConfig, length: int, positions: int) -> int:
    """The smallest of `config.ratios` whose memory fits `positions` slots for `length` tokens, else the largest."""
    ratios = sorted(config.ratios)
    return next((ratio for ratio in ratios if length <= longest(config, ratio, positions)), ratios[-1])


def longest(config: BeaconConfig, ratio: int, positions: int) -> int:
    """Most raw tokens at one ratio: the memory of all full windows and one window at work fit `positions` slots.

    `sink + windows · w/α + overlap + w + w/α <= positions`, and one token less than another full window.
    """
    w = config.window
    free = positions - config.sink - config.overlap - w - w // ratio
    return (free // (w // ratio) + 1) * w - 1 if free >= 0 else min(w, positions)
