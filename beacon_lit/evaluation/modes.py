"""Modes that are compared: the dense backbone, windows without memory, and memory at a ratio; names of baselines."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from beacon_lit.arch import adapt_ratio

Model = Any  # a BeaconLM, or an object with the methods of it that evaluation calls

DENSE = "dense"
WINDOW_ONLY = "window-only"
_ADAPT = re.compile(r"adapt-(\d+)")
_RATIO = "ratio "
_BASELINE = re.compile(rf"(?!{_RATIO})(\w+) (\d+|adapt-\d+)(?: (\w+))?")


@dataclass(frozen=True)
class Mode:
    """One way to read a text with a model; a row of every table.

    Args:
        name: the name in tables: "dense", "window-only", "ratio 8", "adapt-1024".
        ratio: the ratio that the model is given, an int or "drop"; None if dense, or if each text has its own.
        room: N of "adapt-N", tokens beyond the text that must also fit; None in other modes.
    """

    name: str
    ratio: int | str | None = None
    room: int | None = None

    @property
    def is_dense(self) -> bool:
        """Whether the untouched backbone reads."""
        return self.ratio is None and self.room is None

    @property
    def uses_beacons(self) -> bool:
        """Whether trained beacons can change the scores of this mode."""
        return self.room is not None or isinstance(self.ratio, int)

    def ratio_of(self, lm: Model, length: int) -> int | str | None:
        """Choose the ratio of a text of `length` tokens.

        "adapt-N" takes the smallest ratio whose memory fits the model's positions for `length + N` tokens, or else the
        largest ratio, once per text as the paper's code does.
        """
        return self.ratio if self.room is None else adapt_ratio(lm.beacon, length + self.room, lm.positions)


def parse_mode(value: str | int) -> Mode:
    """Parse a mode: "dense", "window-only", "adapt-N", or a ratio (an int of at least 1).

    Raises:
        ValueError: any other value.
    """
    if value == DENSE:
        return Mode(DENSE)
    if value == WINDOW_ONLY:
        return Mode(WINDOW_ONLY, "drop")
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return Mode(f"{_RATIO}{value}", value)
    if isinstance(value, str) and (adapt := _ADAPT.fullmatch(value)):
        return Mode(value, room=int(adapt[1]))
    raise ValueError(
        f"modes={value!r} is not allowed; allowed: {DENSE!r}, {WINDOW_ONLY!r}, a ratio (an integer of at least 1) or "
        "'adapt-N', such as 'adapt-1024'"
    )


def choose_modes(lm: Model, values: Sequence[str | int] | None = None) -> tuple[Mode, ...]:
    """Parse a list of modes.

    Args:
        lm: the model.
        values: see `parse_mode`; None means dense, window-only and all ratios of the model.

    Raises:
        ValueError: an empty list, a repeated mode, a mode that `parse_mode` refuses, or a ratio that does not divide
            the model's window.
    """
    chosen = (DENSE, WINDOW_ONLY, *sorted(lm.beacon.ratios)) if values is None else tuple(values)
    if not chosen or len(set(chosen)) != len(chosen):
        raise ValueError(f"modes={list(chosen)} is not allowed; allowed: one or more modes, each once")
    modes = tuple(parse_mode(value) for value in chosen)
    for mode in modes:
        if isinstance(mode.ratio, int) and lm.beacon.window % mode.ratio:
            raise ValueError(f"ratio={mode.ratio} is not allowed; allowed: divisors of the window, {lm.beacon.window}")
    return modes


def baseline_name(method: str, memory: Mode, budget: str = "") -> str:
    """Name the baseline that compresses by a method to the memory of a mode: "compactor 8", "compactor 8 nominal"."""
    return " ".join(filter(None, (method, memory.name.removeprefix(_RATIO), budget)))


def split_baseline(name: str) -> tuple[str, str] | None:
    """Split the name of a baseline into its method with the budget, and the name of the mode whose memory it has.

    Returns:
        ("compactor nominal", "ratio 8") for "compactor 8 nominal"; None for the name of another mode.
    """
    found = _BASELINE.fullmatch(name)
    if found is None:
        return None
    method, memory, budget = found.groups()
    return " ".join(filter(None, (method, budget))), f"{_RATIO}{memory}" if memory.isdigit() else memory
