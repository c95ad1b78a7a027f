"""Put a beacon after every unit, which sees its own unit, the beacons before it and memory, but no other raw tokens.

So each beacon has to hold what its unit says, like summary tokens that read their own chunk only (arXiv 2604.24432).
Raw tokens see all that precedes them, beacons included.
"""

import numpy as np
from torch import Tensor

from beacon_lit.arch.placements.placement import (
    OVERLAP,
    Arrangement,
    Placement,
    Tokens,
    in_places,
    interleaved,
)

NAME = "own-unit"


class OwnUnit:
    """The placement `own-unit`."""

    inserts = True
    runs = True
    masked = True

    def arrange(self, tokens: int, beacons: int, ratio: int, past: int) -> Arrangement:
        """See `Placement`."""
        order = in_places(*interleaved(tokens, beacons, ratio, past))
        return Arrangement(order, np.arange(len(order)))

    def sees(self, query: Tokens, key: Tokens) -> Tensor:
        """See `Placement`."""
        other_text = (key.unit >= 0) & ~key.beacon & (key.unit != query.unit)
        return ~query.beacon | ~(other_text | (key.unit == OVERLAP))


PLACEMENT: Placement = OwnUnit()
