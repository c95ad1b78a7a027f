"""A beacon after every unit, in sight of all that is before it in the window (the paper, arXiv 2401.03462)."""

import numpy as np
from torch import Tensor

from beacon_lit.arch.placements.placement import Arrangement, Placement, Tokens, in_places, interleaved

NAME = "interleave"


class Interleave:
    """See the module."""

    inserts = True
    masked = False

    def arrange(self, tokens: int, beacons: int, ratio: int, past: int) -> Arrangement:
        """See `Placement`."""
        order = in_places(*interleaved(tokens, beacons, ratio, past))
        return Arrangement(order, np.arange(len(order)))

    def sees(self, query: Tokens, key: Tokens) -> Tensor:
        """See `Placement`."""
        raise AssertionError("causal attention is all of the rule")


PLACEMENT: Placement = Interleave()
