"""One ratio for every window. No name in configs: `eval_ratio` and a single ratio say the same."""

from dataclasses import dataclass

from beacon_lit.arch.ratios.policy import Choice, Draw, Limits, Ratio, RowWindows


@dataclass(frozen=True)
class Fixed:
    """See the module."""

    ratio: Ratio
    plans_ahead: bool = False

    def choose(self, windows: RowWindows, limits: Limits, draw: Draw | None) -> Choice:
        """See `RatioPolicy`."""
        return Choice((self.ratio,) * windows.count)
