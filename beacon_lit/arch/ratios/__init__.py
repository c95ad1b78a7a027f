"""Ratio policies: how a window gets its ratio when a call passes none. One file each; see `RatioPolicy`."""

from functools import cache

from beacon_lit.arch import extensions
from beacon_lit.arch.ratios.policy import Choice, Draw, Limits, Ratio, RatioPolicy, Ratios, RowWindows

__all__ = ["Choice", "Draw", "Limits", "Ratio", "RatioPolicy", "Ratios", "RowWindows", "find_policy"]


@cache
def find_policy(name: str) -> RatioPolicy:
    """Return the policy of this name, e.g. "random" or "adapt-64".

    Raises:
        ValueError: unknown policy, or an argument that the policy does not take.
    """
    known = extensions.names(__name__)
    words = str(name).split("-")
    for count in range(len(words), 0, -1):
        found = "-".join(words[:count])
        if found in known:
            return extensions.find(__name__, found).policy("-".join(words[count:]) if words[count:] else None)
    spelled = ", ".join(extensions.find(__name__, one).SPELLED for one in known)
    raise ValueError(f"ratio_policy={name!r} is not allowed; allowed: {spelled}")
