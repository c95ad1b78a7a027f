"""What every ratio policy is, and what it is asked."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

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


@dataclass(frozen=True)
class Limits:
    """What ratios have to fit.

    Attributes:
        window, ratios, sink, overlap: of the `BeaconConfig`.
        positions: position slots of the backbone.
        slot_bytes: keys and values of one slot, all layers.
    """

    window: int
    ratios: tuple[int, ...]
    sink: int
    overlap: int
    positions: int
    slot_bytes: int = 0

    def longest(self, ratio: int) -> int:
        """Most raw tokens at one ratio: the memory of all full windows and one window at work fit the positions.

        `sink + windows · w/α + overlap + w + w/α <= positions`, and one token less than another full window.
        """
        w = self.window
        free = self.positions - self.sink - self.overlap - w - w // ratio
        return (free // (w // ratio) + 1) * w - 1 if free >= 0 else min(w, self.positions)

    def smallest(self, length: int) -> int:
        """The smallest ratio whose memory fits the positions for `length` tokens, else the largest."""
        ratios = sorted(self.ratios)
        return next((ratio for ratio in ratios if length <= self.longest(ratio)), ratios[-1])


@dataclass(frozen=True)
class RowWindows:
    """The windows of one row that a call touches, for which a policy chooses.

    Attributes:
        row: index of the row in the batch.
        first: index in the sequence of the first of these windows.
        count: how many they are.
        length: raw tokens that the sequence will have, as far as known; at least those that this call reads.
        memory: slots of memory before the call.
        given: the ratio that the first of these windows has already, if it has one.
        remembered: what the policy chose to remember of the sequence in earlier calls.
        fits: whether the tokens ahead fit the positions if all these windows get a ratio.
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
    """What a policy chose for one row.

    Attributes:
        ratios: one for each window.
        remembered: what it wants to know when it is asked about the sequence again.
    """

    ratios: tuple[Ratio, ...]
    remembered: int | None = None


class RatioPolicy(Protocol):
    """How windows get their ratio when a call passes none.

    A module of this package defines `NAME`, how configs spell it; `SPELLED`, the same with a placeholder for what may
    follow (`adapt-N`), for messages; and `policy(argument)`, which makes the object of what follows the name
    (None if nothing does), and raises a ValueError that says what may follow.

    Attributes:
        plans_ahead: chooses for the whole sequence: is asked as soon as a call says how long the sequence will be,
            even if no window closes, and generation says so before it starts.
    """

    @property
    def plans_ahead(self) -> bool:
        """See above."""

    def choose(self, windows: RowWindows, limits: Limits, draw: Draw | None) -> Choice:
        """Choose for one row.

        Args:
            windows: what is asked.
            limits: what the ratios have to fit.
            draw: the counter of a training step; None in eval mode, where nothing random happens.

        Raises:
            ValueError: a policy that draws, in eval mode.
        """


def no_argument(name: str, argument: str | None) -> None:
    """ValueError if something follows the name of a policy that takes nothing."""
    if argument is not None:
        raise ValueError(f"ratio_policy='{name}-{argument}' is not allowed; allowed: {name}")
