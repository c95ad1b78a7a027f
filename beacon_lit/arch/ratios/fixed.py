"""Give every window one ratio. The policy has no name in configs, where `eval_ratio` or a single ratio does this."""

from dataclasses import dataclass

from beacon_lit.arch.ratios.policy import Choice, Draw, Limits, Ratio, RowWindows


@dataclass(frozen=True)
class Fixed:
    """The policy behind `eval_ratio`."""

    ratio: Ratio
    plans_ahead: bool = False

    def choose(self, windows: RowWindows, limits: Limits, draw: Draw | None) -> Choice:
        """See `RatioPolicy`."""
        return Choice((self.ratio,) * windows.count)
