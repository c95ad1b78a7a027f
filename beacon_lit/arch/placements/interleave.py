"""Put a beacon after every unit, which sees all that precedes it in the window (the paper, arXiv 2401.03462)."""

import numpy as np

from beacon_lit.arch.placements.placement import Arrangement, Causal, Placement, in_places, interleaved

NAME = "interleave"


class Interleave(Causal):
    """The placement `interleave`."""

    inserts = True

    def arrange(self, tokens: int, beacons: int, ratio: int, past: int) -> Arrangement:
        """See `Placement`."""
        order = in_places(*interleaved(tokens, beacons, ratio, past))
        return Arrangement(order, np.arange(len(order)))


PLACEMENT: Placement = Interleave()
