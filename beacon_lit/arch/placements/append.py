"""All beacons at the window's end, each in sight of the whole window: an ablation of the paper."""

import numpy as np
from torch import Tensor

from beacon_lit.arch.placements.placement import Arrangement, Placement, Tokens

NAME = "append"


class Append:
    """See the module."""

    inserts = False
    masked = False

    def arrange(self, tokens: int, beacons: int, ratio: int, past: int) -> Arrangement:
        """See `Placement`."""
        order = np.arange(tokens + beacons)
        return Arrangement(order, order)

    def sees(self, query: Tokens, key: Tokens) -> Tensor:
        """See `Placement`."""
        raise AssertionError("causal attention is all of the rule")


PLACEMENT: Placement = Append()
