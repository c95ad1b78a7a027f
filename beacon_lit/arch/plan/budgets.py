"""Head budgets from importance: each KV head's share of the most important tokens, in few different values."""

import numpy as np

from beacon_lit.arch.head_budgets import HeadBudgets
from beacon_lit.checks import check_counts

DIGITS = 3  # of a share: rounding moves the mean by at most 0.0005


def head_budgets(importance: np.ndarray, ratio: int, even: float, groups: int) -> HeadBudgets:
    """Return head budgets (`BeaconConfig.head_budgets`) from the importance of tokens for KV heads.

    A head gets `even` as every head does, and the rest by its share of the most important tokens.

    Args:
        importance: (layers, K, tokens).
        ratio: 1/ratio of the tokens of all heads are the most important ones.
        even: share of the budget that is spread evenly, 0.01 to 1.
        groups: maximum number of different values, since each takes a plan of its own.

    Returns:
        for each layer, the share of each KV head, 1.0 on average up to rounding.

    Raises:
        ValueError: a setting is out of range.
    """
    check_settings(ratio, even, groups)
    shares = grouped(even + (1 - even) * important_shares(importance, ratio), groups)
    return tuple(tuple(round(share, DIGITS) for share in row) for row in shares.tolist())


def check_settings(ratio: int, even: float, groups: int) -> None:
    """Raise a ValueError unless `head_budgets` allows these settings."""
    check_counts(2, ratio=ratio)
    if isinstance(even, bool) or not isinstance(even, (int, float)) or not 0.01 <= even <= 1:
        raise ValueError(f"even={even!r} is not allowed: every head needs a share above 0; allowed: 0.01 to 1")
    check_counts(1, groups=groups)


def important_shares(importance: np.ndarray, ratio: int) -> np.ndarray:
    """Return how many of the most important tokens are each head's, in units of an even share.

    Args:
        importance: (layers, K, tokens).
        ratio: 1/ratio of all values, and what equals the last of these, count.

    Returns:
        (layers, K) float64 with a mean of 1.
    """
    most = max(1, importance.size // ratio)
    least = np.partition(importance, -most, axis=None)[-most]
    counts = (importance >= least).sum(-1)
    return counts / counts.mean()


def grouped(shares: np.ndarray, groups: int) -> np.ndarray:
    """Replace values by the means of at most `groups` groups of neighbouring values; the mean stays.

    Of all such groupings the one with the smallest sum of squared changes is found, by dynamic programming over the
    sorted values.

    Args:
        shares: any shape.
        groups: maximum number of groups.

    Returns:
        the means, in the shape of `shares`.
    """
    order = np.argsort(shares, axis=None, kind="stable")
    values = shares.flatten()[order]
    sums, squares = (np.concatenate([[0.0], np.cumsum(part)]) for part in (values, values**2))
    count = len(values)
    # best[j]: the smallest sum of squared changes of the first j values; cuts[g][j]: where the last of their g + 1
    # groups starts.
    best, cuts = np.where(np.arange(count + 1) == 0, 0.0, np.inf), []
    for _ in range(min(groups, count)):
        cut, total = np.zeros(count + 1, int), np.full(count + 1, np.inf)
        for j in range(1, count + 1):
            size = j - np.arange(j)
            changes = best[:j] + squares[j] - squares[:j] - (sums[j] - sums[:j]) ** 2 / size
            cut[j] = int(changes.argmin())
            total[j] = changes[cut[j]]
        best = total
        cuts.append(cut)
    means, stop = np.empty(count), count
    for cut in reversed(cuts):
        means[cut[stop] : stop] = values[cut[stop] : stop].mean()
        stop = cut[stop]
    return means[np.argsort(order)].reshape(shares.shape)
