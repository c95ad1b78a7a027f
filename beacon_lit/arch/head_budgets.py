"""Spread a window's beacons over KV heads by their shares."""

from collections import Counter
from functools import lru_cache
from typing import TypeAlias

HeadBudgets: TypeAlias = tuple[tuple[float, ...], ...]  # for each layer, the share of each KV head; 1 on average


@lru_cache(maxsize=256)
def spread(budgets: HeadBudgets | None, size: int, mean: int) -> tuple[int, ...]:
    """Return the beacons of a window in each group of heads, by ascending share: at least 1, at most `size`.

    What heads above `size` cannot take goes to the others, by their shares. Rounding leaves the average over heads at
    `mean` or less than one beacon below.

    Args:
        budgets: see `BeaconConfig.head_budgets`; heads of equal shares are one group. None: one group, `mean` beacons.
        size: raw tokens of the window.
        mean: beacons of the window, on average over all heads.
    """
    if budgets is None:
        return (mean,)
    heads = Counter(share for row in budgets for share in row)
    left, below = mean * sum(heads.values()), dict(heads)  # beacons for the heads that stay below `size`
    while below:
        scale = left / sum(share * count for share, count in below.items())
        above = [share for share in below if share * scale > size]
        if not above:
            break
        left -= size * sum(below.pop(share) for share in above)
    return tuple(max(1, int(share * scale)) if share in below else size for share in sorted(heads))
