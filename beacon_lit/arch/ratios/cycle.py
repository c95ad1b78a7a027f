"""Give windows the ratios in the order of the config, then again from the first."""

from beacon_lit.arch.ratios.policy import Choice, Draw, Limits, RatioPolicy, RowWindows, no_argument

NAME = SPELLED = "cycle"


class Cycle:
    """The policy `cycle`."""

    plans_ahead = False

    def choose(self, windows: RowWindows, limits: Limits, draw: Draw | None) -> Choice:
        """See `RatioPolicy`."""
        indices = range(windows.first, windows.first + windows.count)
        return Choice(tuple(limits.ratios[i % len(limits.ratios)] for i in indices))


def policy(argument: str | None) -> RatioPolicy:
    """See `RatioPolicy`."""
    no_argument(NAME, argument)
    return Cycle()
