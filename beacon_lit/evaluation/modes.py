"""What is compared: the untouched backbone, windows without any memory, and memory at one ratio or at one that fits."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from beacon_lit.arch import adapt_ratio

Model = Any  # a BeaconLM, or whatever has the methods of it that `Reader` calls

DENSE = "dense"
WINDOW_ONLY = "window-only"
_ADAPT = re.compile(r"adapt-(\d+)")


@dataclass(frozen=True)
class Mode:
    """One way to read a text with a model, a row of every table.

    Args:
        name: as in tables: "dense", "window-only", "ratio 8", "adapt-1024".
        ratio: what the model gets as a text's ratio, an int or "drop"; None where there is none, or no fixed one.
        room: for "adapt-N": tokens beyond the text that must fit, too.
    """

    name: str
    ratio: int | str | None = None
    room: int | None = None

    @property
    def is_dense(self) -> bool:
        """Whether the plain backbone reads."""
        return self.ratio is None and self.room is None

    @property
    def uses_beacons(self) -> bool:
        """Whether trained beacons can change what this mode scores."""
        return self.room is not None or isinstance(self.ratio, int)

    def ratio_of(self, lm: Model, length: int) -> int | str | None:
        """The ratio of a text of so many tokens: with "adapt-N" the smallest whose memory fits the model's positions
        for `length + N` tokens, else the largest. (The paper's code chooses so, once per text.)"""
        return self.ratio if self.room is None else adapt_ratio(lm.beacon, length + self.room, lm.positions)


def parse_mode(value: str | int) -> Mode:
    """The mode written as "dense", "window-only", "adapt-N" or a ratio (an int >= 1).

    Raises:
        ValueError: anything else.
    """
    if value == DENSE:
        return Mode(DENSE)
    if value == WINDOW_ONLY:
        return Mode(WINDOW_ONLY, "drop")
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return Mode(f"ratio {value}", value)
    if isinstance(value, str) and (adapt := _ADAPT.fullmatch(value)):
        return Mode(value, room=int(adapt[1]))
    raise ValueError(
        f"modes: got {value!r}; each must be {DENSE!r}, {WINDOW_ONLY!r}, a ratio (an integer >= 1) or 'adapt-N', such "
        "as 'adapt-1024'"
    )


def choose_modes(lm: Model, values: Sequence[str | int] | None = None) -> tuple[Mode, ...]:
    """The modes written in `values`; None means dense, window-only and every ratio that the model was built with.

    Raises:
        ValueError: an empty list, a repeated mode, one that `parse_mode` refuses, or a ratio that does not divide the
            model's window.
    """
    chosen = (DENSE, WINDOW_ONLY, *sorted(lm.beacon.ratios)) if values is None else tuple(values)
    if not chosen or len(set(chosen)) != len(chosen):
        raise ValueError(f"modes: got {list(chosen)}; they must be at least one, and each only once")
    modes = tuple(parse_mode(value) for value in chosen)
    for mode in modes:
        if isinstance(mode.ratio, int) and lm.beacon.window % mode.ratio:
            raise ValueError(f"ratio={mode.ratio} is not allowed; allowed: divisors of the window, {lm.beacon.window}")
    return modes
