"""All beacons at the window's end, the j-th in sight of the first j units and beacons: an ablation of the paper.

Attention sees them in the interleaved order, in which raw tokens do not see beacons. A slot counts what is seen before.
"""

import numpy as np
from torch import Tensor

from beacon_lit.arch.placements.placement import Arrangement, Placement, Tokens, in_places, interleaved

NAME = "step-expansion"


class StepExpansion:
    """See the module."""

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
