"""Define the protocol of ratio policies, and the values that a policy gets and returns."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from beacon_lit.arch.head_budgets import HeadBudgets, spread

Ratio: TypeAlias = int | str  # α >= 1, 0 (keep the window raw) or "drop"
Ratios: TypeAlias = Ratio | Sequence[Ratio] | Sequence[Sequence[Ratio]]


@dataclass(frozen=True)
class Draw:
    """The counter behind random ratios: the same counter gives the same ratios, so a resumed run repeats them.

    A draw depends on these three fields, the row of the batch and the window, never on other rows or on a generator.
    """

    seed: int = 0
    rank: int = 0
    step: int = 0

    def next(self) -> "Draw":
        """Return the counter of the following step."""
        return replace(self, step=self.step + 1)

    def pick(self, row: int, window: int, choices: Sequence[int]) -> int:
        """Pick one of `choices`, uniformly."""
        key = f"{self.seed}/{self.rank}/{self.step}/{row}/{window}".encode()
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
        return choices[number % len(choices)]


@dataclass(frozen=True)
class Limits:
    """The settings and sizes that limit the choice of ratios.

    Attributes:
        window, ratios, sink, overlap, head_budgets: see `BeaconConfig`; ratios in the order given, not sorted.
        positions: position slots of the backbone.
        slot_bytes: bytes of the keys and values of one slot, all layers with memory.
    """

    window: int
    ratios: tuple[int, ...]
    sink: int
    overlap: int
    positions: int
    slot_bytes: int = 0
    head_budgets: HeadBudgets | None = None

    def longest(self, ratio: int) -> int:
        """Return the most raw tokens at one ratio whose memory, plus one window at work, fits the positions.

        This is the largest number of full windows with `sink + windows · m + overlap + w + m <= positions`, and one
        token less than another full window. m is what the heads with the largest share keep of a window: w/α without
        head budgets.
        """
        w = self.window
        kept = spread(self.head_budgets, w, w // ratio)[-1]
        free = self.positions - self.sink - self.overlap - w - kept
        return (free // kept + 1) * w - 1 if free >= 0 else min(w, self.positions)

    def smallest(self, length: int) -> int:
        """Return the smallest ratio whose memory fits the positions for `length` raw tokens, else the largest."""
        ratios = sorted(self.ratios)
        return next((ratio for ratio in ratios if length <= self.longest(ratio)), ratios[-1])


@dataclass(frozen=True)
class RowWindows:
    """The windows of one row that a call touches, for which a policy chooses.

    Attributes:
        row: index of the row in the batch.
        first: index in the sequence of the first of these windows.
        count: number of these windows.
        length: raw tokens that the sequence will have, as far as known.
        memory: slots of memory before the call.
        given: the ratio that the first of these windows has already; None if it has none. It stands whatever the policy
            returns; only policies that count slots need it.
        remembered: what the policy returned as `Choice.remembered` for the sequence last; None at first.
        fits: tells whether the tokens ahead fit the positions if all these windows get one given ratio.
    """

    row: int
    first: int
    count: int
    length: int
    memory: int = 0
    given: Ratio | None = None
    remembered: int | None = None
    fits: Callable[[int], bool] = lambda ratio: True


@dataclass(frozen=True)
class Choice:
    """The choice of a policy for one row.

    Attributes:
        ratios: one for each window.
        remembered: a number that the policy gets back in the sequence's next call (`RowWindows.remembered`).
    """

    ratios: tuple[Ratio, ...]
    remembered: int | None = None


class RatioPolicy(Protocol):
    """How a window gets its ratio when a call passes none.

    A module of this package defines `NAME`, the policy's name in configs; `SPELLED`, the name with a placeholder for
    its argument (`adapt-N`), for messages; and `policy(argument)`, which makes the policy from the text behind the
    name (None without one) and raises a ValueError for a text that is not allowed.

    Attributes:
        plans_ahead: whether the policy chooses for the whole sequence. It is then asked as soon as a call passes
            `total_length`, even if no window closes, and generation passes the length before it starts.
    """

    @property
    def plans_ahead(self) -> bool:
        """See `RatioPolicy`."""

    def choose(self, windows: RowWindows, limits: Limits, draw: Draw | None) -> Choice:
        """Choose the ratios of one row's windows.

        Args:
            windows: the windows.
            limits: settings and sizes that limit the choice.
            draw: the counter of a training step; None in eval mode, where nothing is drawn.

        Raises:
            ValueError: the policy draws, and this is eval mode.
        """


def no_argument(name: str, argument: str | None) -> None:
    """Raise a ValueError if a policy that takes no argument is given one."""
    if argument is not None:
        raise _refused(name, argument, name)


def count_argument(name: str, argument: str | None, least: int, allowed: str, unit: str = "") -> int:
    """Read the argument of a policy that takes a count.

    Args:
        name: the policy's name.
        argument: the text behind the name; None without one.
        least: the smallest count.
        allowed: what is allowed, for the message.
        unit: text that may follow the count.

    Raises:
        ValueError: no count, or one below `least`.
    """
    digits = (argument or "").removesuffix(unit)
    if not digits.isdecimal() or int(digits) < least:
        raise _refused(name, argument, allowed)
    return int(digits)


def _refused(name: str, argument: str | None, allowed: str) -> ValueError:
    text = name if argument is None else f"{name}-{argument}"
    return ValueError(f"ratio_policy={text!r} is not allowed; allowed: {allowed}")
