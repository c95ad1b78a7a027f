"""Draw a ratio for each sequence, among the ratios whose memory fits the sequence; in training only."""

from beacon_lit.arch.ratios.policy import RatioPolicy, no_argument
from beacon_lit.arch.ratios.random import Random

NAME = SPELLED = "random-per-sequence"


def policy(argument: str | None) -> RatioPolicy:
    """See `RatioPolicy`."""
    no_argument(NAME, argument)
    return Random(NAME, per_window=False)
