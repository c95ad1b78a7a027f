"""Insert no beacon tokens: each KV head keeps the raw tokens of a window whose keys stand out most, as its beacons.

When a window closes, each KV head of each layer selects as many raw tokens as the ratio gives the window beacons, and
keeps their order. It selects tokens whose keys, averaged with their neighbours' keys, are least like the window's mean
key (`nn.selection`; the criterion is KeyDiff's, arXiv 2504.15364). The keys and values kept come from the beacons' own
projections, which start as the backbone's. So untrained beacons already compress well, and raw tokens are computed as
if there were no beacons. Nothing is read twice: a cache keeps what the open window needs to close.
"""

import numpy as np

from beacon_lit.arch.placements.placement import Arrangement, Causal, Placement

NAME = "select"


class Select(Causal):
    """The placement `select`."""

    inserts = False
    runs = False

    def arrange(self, tokens: int, beacons: int, ratio: int, past: int) -> Arrangement:
        """Arrange the raw tokens; the window has no others."""
        order = np.arange(tokens)
        return Arrangement(order, order)


PLACEMENT: Placement = Select()
