"""Put all beacons at the window's end, where each sees the whole window: an ablation of the paper."""

import numpy as np

from beacon_lit.arch.placements.placement import Arrangement, Causal, Placement

NAME = "append"


class Append(Causal):
    """The placement `append`."""

    inserts = False

    def arrange(self, tokens: int, beacons: int, ratio: int, past: int) -> Arrangement:
        """See `Placement`."""
        order = np.arange(tokens + beacons)
        return Arrangement(order, order)


PLACEMENT: Placement = Append()
