"""What every placement of beacons is."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

MEMORY, OVERLAP = -1, -2  # units of keys from before the window


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a placement may know of tokens when it decides who sees whom.

    Attributes:
        unit: int64, the unit of the window that a raw token lies in or a beacon stands for, counted from 0; `MEMORY` or
            `OVERLAP` for keys from before the window.
        beacon: bool, whether it is a beacon of this window.
    """

    unit: Tensor
    beacon: Tensor


@dataclass(frozen=True, eq=False)
class Arrangement:
    """How the tokens of a window that run in one call are arranged.

    Attributes:
        order: (T,) int64, `[raw tokens | beacons]` in the order in which attention sees them.
        slots: (T,) int64, the slot of each in this order, counted from the first raw token's.
    """

    order: np.ndarray
    slots: np.ndarray


class Placement(Protocol):
    """Where the beacons of a window stand, at which slots, and who sees whom.

    A module of this package defines `NAME`, how configs spell it, and `PLACEMENT`, the object.

    Attributes:
        inserts: a beacon stands right behind its unit, so that it can run as soon as the unit is complete
            (`unfinished="beacons"`). Otherwise the beacons run when the window closes.
        runs: beacons are tokens, which go through the layers as others do. Otherwise a beacon is made, layer by layer,
            of the keys and values of its window's raw tokens (`nn.selection`), and has no place in the window's order.
        masked: `sees` restricts what tokens see of what is before them in the order. Such a placement cannot use the
            kernels that know causal attention alone.
    """

    inserts: bool
    runs: bool
    masked: bool

    def arrange(self, tokens: int, beacons: int, ratio: int, past: int) -> Arrangement:
        """Arrange the tokens of a window.

        Args:
            tokens: raw tokens of the window that run in this call.
            beacons: its beacons, at least one.
            ratio: raw tokens a beacon.
            past: raw tokens of the window that earlier calls have run; 0 unless `inserts`.
        """

    def sees(self, query: Tokens, key: Tokens) -> Tensor:
        """Whether tokens of a window see those before them in the order, itself included.

        Called with `masked` only, for windows that have beacons.

        Args:
            query: fields of shape (Q, 1), tokens of the window.
            key: fields of shape (K,).

        Returns:
            (Q, K) bool; the causal rule comes on top.
        """


class Causal:
    """What placements share in which beacons run, and tokens see all that is before them in the order."""

    runs = True
    masked = False

    def sees(self, query: Tokens, key: Tokens) -> Tensor:
        """See `Placement`."""
        raise AssertionError("the causal rule is all there is")


def interleaved(tokens: int, beacons: int, ratio: int, past: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of raw tokens, and of beacons, where each beacon comes right behind its unit."""
    lead = past % ratio  # raw tokens since the last beacon
    beacon_at = (np.arange(beacons) + 1) * (ratio + 1) - 1 - lead
    token_at = np.arange(tokens) + np.minimum((np.arange(tokens) + lead) // ratio, beacons)
    return token_at, beacon_at


def in_places(token_at: np.ndarray, beacon_at: np.ndarray) -> np.ndarray:
    """The order that has raw tokens and beacons at these places."""
    order = np.empty(len(token_at) + len(beacon_at), np.int64)
    order[token_at] = np.arange(len(token_at))
    order[beacon_at] = len(token_at) + np.arange(len(beacon_at))
    return order
