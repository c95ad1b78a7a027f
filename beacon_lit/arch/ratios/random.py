"""Draw a ratio for each window, among the ratios whose memory fits the sequence; in training only (the paper)."""

from dataclasses import dataclass

from beacon_lit.arch.ratios.policy import Choice, Draw, Limits, RatioPolicy, RowWindows, no_argument

NAME = SPELLED = "random"


@dataclass(frozen=True)
class Random:
    """The policies `random` and `random-per-sequence`.

    Attributes:
        name: the policy's name in configs, for messages.
        per_window: whether to draw for each window, as opposed to once for the sequence.
    """

    name: str
    per_window: bool
    plans_ahead: bool = False

    def choose(self, windows: RowWindows, limits: Limits, draw: Draw | None) -> Choice:
        """See `RatioPolicy`."""
        if len(limits.ratios) == 1:
            return Choice(limits.ratios * windows.count)
        if draw is None:
            raise ValueError(
                f"ratio_policy={self.name!r} draws in training only; in eval mode pass ratios= (one of "
                f"{', '.join(map(str, limits.ratios))}, 0, 'drop', or one of these per window) or set eval_ratio"
            )
        fitting = [ratio for ratio in limits.ratios if windows.length <= limits.longest(ratio)] or limits.ratios
        indices = range(windows.first, windows.first + windows.count)
        return Choice(tuple(draw.pick(windows.row, i if self.per_window else 0, fitting) for i in indices))


def policy(argument: str | None) -> RatioPolicy:
    """See `RatioPolicy`."""
    no_argument(NAME, argument)
    return Random(NAME, per_window=True)
