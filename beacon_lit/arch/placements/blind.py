"""Put a beacon after every unit, which sees all that precedes it, but hide it from the raw tokens of its own window.

A beacon shares the slot of the raw token before it. So raw tokens are computed as if there were no beacons: scoring a
window gives the logits that decoding gave, and a window has no more slots than raw tokens.
"""

import numpy as np
from torch import Tensor

from beacon_lit.arch.placements.placement import Arrangement, Placement, Tokens, in_places, interleaved

NAME = "blind"


class Blind:
    """The placement `blind`."""

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
