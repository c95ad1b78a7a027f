"""No beacon tokens: for each KV head, a beacon is the raw token of its window whose key stands out most.

When a window closes, each KV head of each layer keeps as many of the window's raw tokens as the ratio gives it beacons,
in their order: those whose keys, and whose neighbours' keys, are least like the window's mean key (`nn.selection`; the
criterion is that of KeyDiff, arXiv 2504.15364). Their keys and values go through the beacons' own projections, which
start as the backbone's. So untrained beacons are a good compression, from which training goes on; and raw tokens are
computed as if there were no beacons.
"""

import numpy as np

from beacon_lit.arch.placements.placement import Arrangement, Causal, Placement

NAME = "select"


class Select(Causal):
    """See the module."""

    inserts = False
    runs = False

    def arrange(self, tokens: int, beacons: int, ratio: int, past: int) -> Arrangement:
        """Arrange the raw tokens: there is nothing else in the window."""
        order = np.arange(tokens)
        return Arrangement(order, order)


PLACEMENT: Placement = Select()
