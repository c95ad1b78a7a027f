"""Define the protocol that every placement of beacons follows."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

MEMORY, OVERLAP = -1, -2  # units of keys from before the window


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a placement knows about tokens when it decides who sees whom.

    Attributes:
        unit: int64, the unit of the window that a raw token lies in or a beacon stands for, counted from 0; `MEMORY` or
            `OVERLAP` for keys from before the window.
        beacon: bool, whether the token is a beacon of this window.
    """

    unit: Tensor
    beacon: Tensor


@dataclass(frozen=True, eq=False)
class Arrangement:
    """The arrangement of the T tokens of a window that run in one call.

    Attributes:
        order: (T,) int64, indices into `[raw tokens | beacons]`, in the order in which attention gets them.
        slots: (T,) int64, the slot of each token in this order, counted from the first raw token's.
    """

    order: np.ndarray
    slots: np.ndarray


class Placement(Protocol):
    """Where the beacons of a window stand, at which slots, and who sees whom.

    A module of this package defines `NAME`, its name in configs, and `PLACEMENT`, the object.

    Attributes:
        inserts: whether a beacon stands right behind its unit, so that it can run as soon as the unit is complete
            (`unfinished="beacons"`). Otherwise beacons run when the window closes, and raw tokens must not see those of
            their own window, by the order or by `sees`: some were read before the beacons ran.
        runs: whether beacons are tokens that go through the layers. Otherwise each layer makes a beacon from the keys
            and values of its window's raw tokens (`nn.selection`), and the beacon has no place in the order.
        masked: whether `sees` hides tokens that the causal rule would show. Such a placement cannot use the kernels
            that support causal attention alone.
    """

    inserts: bool
    runs: bool
    masked: bool

    def arrange(self, tokens: int, beacons: int, ratio: int, past: int) -> Arrangement:
        """Arrange the tokens of a window.

        Args:
            tokens: raw tokens of the window that run in this call; all of them unless `inserts`.
            beacons: its beacons that run in this call, one for each unit that the call completes; at least one.
            ratio: raw tokens per beacon.
            past: raw tokens of the window that earlier calls have run; 0 unless `inserts`.
        """

    def sees(self, query: Tokens, key: Tokens) -> Tensor:
        """Decide which keys each query sees. Called only if `masked`, for windows that have beacons.

        Args:
            query: tokens of the window; fields of shape (Q, 1).
            key: memory, overlap and tokens of the window; fields of shape (K,).

        Returns:
            (Q, K) bool; the causal rule applies as well.
        """


class Causal:
    """A base for placements that mask nothing: a token sees all that precedes it in the order."""

    runs = True
    masked = False

    def sees(self, query: Tokens, key: Tokens) -> Tensor:
        """See `Placement`."""
        raise AssertionError("a causal placement hides nothing")


def interleaved(tokens: int, beacons: int, ratio: int, past: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of raw tokens and of beacons, each beacon right behind its unit."""
    lead = past % ratio  # raw tokens since the last beacon
    beacon_at = (np.arange(beacons) + 1) * (ratio + 1) - 1 - lead
    token_at = np.arange(tokens) + np.minimum((np.arange(tokens) + lead) // ratio, beacons)
    return token_at, beacon_at


def in_places(token_at: np.ndarray, beacon_at: np.ndarray) -> np.ndarray:
    """Return the order in which raw tokens and beacons stand at these places."""
    order = np.empty(len(token_at) + len(beacon_at), np.int64)
    order[token_at] = np.arange(len(token_at))
    order[beacon_at] = len(token_at) + np.arange(len(beacon_at))
    return order
