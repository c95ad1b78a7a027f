"""Hypothesis strategies: beacon settings, and rows of any length with ratios of any mix."""

from dataclasses import dataclass

from hypothesis import strategies as st

from beacon_lit import BeaconConfig

PLACEMENTS = ("interleave", "append", "step-expansion")


@dataclass(frozen=True)
class Case:
    """Settings, and for each row a length and one ratio per window."""

    beacon: BeaconConfig
    lengths: tuple[int, ...]
    ratios: tuple[tuple[int | str, ...], ...]
    unfinished: str
    seed: int


def divisors(window: int) -> list[int]:
    """Ratios that a window allows."""
    return [ratio for ratio in range(1, window + 1) if window % ratio == 0]


@st.composite
def beacons(draw: st.DrawFn, placements: tuple[str, ...] = PLACEMENTS) -> BeaconConfig:
    """Any window, sink, overlap, placement and set of projections."""
    window = draw(st.sampled_from([1, 2, 4, 6, 8, 9]))
    sink = draw(st.integers(0, window - 1))
    return BeaconConfig(
        window=window,
        ratios=tuple(divisors(window)),
        sink=sink,
        overlap=draw(st.integers(0, window - sink)),
        placement=draw(st.sampled_from(placements)),
        params=tuple(sorted(draw(st.sets(st.sampled_from("kv" if placements == ("select",) else "qkvo"))))),
    )


@st.composite
def cases(draw: st.DrawFn, rows: int = 1, placements: tuple[str, ...] = PLACEMENTS) -> Case:
    """One to `rows` rows of up to five windows."""
    beacon = draw(beacons(placements))
    choices = st.sampled_from([*divisors(beacon.window), 0, "drop"])
    lengths = draw(st.lists(st.integers(1, 5 * beacon.window), min_size=min(rows, 2), max_size=rows))
    ratios = [tuple(draw(choices) for _ in range(-(-length // beacon.window))) for length in lengths]
    return Case(
        beacon, tuple(lengths), tuple(ratios), draw(st.sampled_from(["raw", "beacons"])), draw(st.integers(0, 9))
    )
