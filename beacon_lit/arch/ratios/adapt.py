"""Choose the smallest ratio whose memory fits the backbone's positions for the sequence and N more tokens.

The ratio is chosen once per sequence: from `total_length` if the call passes it, else from the tokens read by the end
of the first call that closes a window. It is raised later only where memory would overflow.
"""

from dataclasses import dataclass

from beacon_lit.arch.ratios.policy import Choice, Draw, Limits, RatioPolicy, RowWindows, count_argument

NAME, SPELLED = "adapt", "adapt-N"


@dataclass(frozen=True)
class Adapt:
    """The policy `adapt-N`.

    Attributes:
        more: N, tokens to leave room for behind the sequence.
    """

    more: int
    plans_ahead: bool = True

    def choose(self, windows: RowWindows, limits: Limits, draw: Draw | None) -> Choice:
        """See `RatioPolicy`."""
        if len(limits.ratios) == 1:
            return Choice(limits.ratios * windows.count)
        least = windows.remembered or limits.smallest(windows.length + self.more)
        larger = [ratio for ratio in sorted(limits.ratios) if ratio >= least]
        ratio = next(filter(windows.fits, larger), larger[-1])
        return Choice((ratio,) * windows.count, ratio)


def policy(argument: str | None) -> RatioPolicy:
    """See `RatioPolicy`."""
    return Adapt(count_argument(NAME, argument, 0, f"{SPELLED}, N new tokens"))
