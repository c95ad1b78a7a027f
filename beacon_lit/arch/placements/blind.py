"""A beacon after every unit, in sight of all before it, but out of sight of its own window's raw tokens.

A beacon shares the slot of the raw token before it. So raw tokens are computed as if there were no beacons: scoring a
window gives what decoding it gave, and a window has no more slots than tokens.
"""

import numpy as np
from torch import Tensor

from beacon_lit.arch.placements.placement import Arrangement, Placement, Tokens, in_places, interleaved

NAME = "blind"


class Blind:
    """See the module."""

    inserts = False
    runs = True
    masked = True

    def arrange(self, tokens: int, beacons: int, ratio: int, past: int) -> Arrangement:
        """See `Placement`."""
        token_at, beacon_at = interleaved(tokens, beacons, ratio, past)
        slots = np.empty(tokens + beacons, np.int64)
        slots[token_at] = np.arange(tokens)
        slots[beacon_at] = (np.arange(beacons) + 1) * ratio - 1
        return Arrangement(in_places(token_at, beacon_at), slots)

    def sees(self, query: Tokens, key: Tokens) -> Tensor:
        """See `Placement`."""
        return query.beacon | ~key.beacon


PLACEMENT: Placement = Blind()
