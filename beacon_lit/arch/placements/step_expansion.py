"""Put all beacons at the window's end, where beacon j sees the first j units and beacons: an ablation of the paper.

Attention gets the tokens in the interleaved order, and raw tokens do not see beacons. A token's slot is the number of
tokens that it sees before itself.
"""

import numpy as np
from torch import Tensor

from beacon_lit.arch.placements.placement import Arrangement, Placement, Tokens, in_places, interleaved

NAME = "step-expansion"


class StepExpansion:
    """The placement `step-expansion`."""

    inserts = False
    runs = True
    masked = True

    def arrange(self, tokens: int, beacons: int, ratio: int, past: int) -> Arrangement:
        """See `Placement`."""
        token_at, beacon_at = interleaved(tokens, beacons, ratio, past)
        slots = np.arange(tokens + beacons)
        slots[token_at] = np.arange(tokens)
        return Arrangement(in_places(token_at, beacon_at), slots)

    def sees(self, query: Tokens, key: Tokens) -> Tensor:
        """See `Placement`."""
        return query.beacon | ~key.beacon


PLACEMENT: Placement = StepExpansion()
