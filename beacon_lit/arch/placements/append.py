"""All beacons at the window's end, each in sight of the whole window: an ablation of the paper."""

import numpy as np

from beacon_lit.arch.placements.placement import Arrangement, Causal, Placement

NAME = "append"


class Append(Causal):
    """See the module."""

    inserts = False

    def arrange(self, tokens: int, beacons: int, ratio: int, past: int) -> Arrangement:
        """See `Placement`."""
        order = np.arange(tokens + beacons)
        return Arrangement(order, order)


PLACEMENT: Placement = Append()
