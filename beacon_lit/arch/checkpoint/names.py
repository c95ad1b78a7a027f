"""Which of a model's parameters are the beacons'."""

from collections.abc import Iterable


def is_beacon(name: str) -> bool:
    """Whether a parameter of this name belongs to the beacons."""
    return ".beacon_" in name


def projections(names: Iterable[str]) -> tuple[str, ...]:
    """The projections that beacons of these parameters have, in alphabetical order: ("k", "q", "v")."""
    parts = {part for name in names for part in name.split(".")}
    return tuple(sorted(p.split("_")[1] for p in parts if p.startswith("beacon_") and p.endswith("_proj")))


def check_names(expected: set[str], found: set[str], source: str) -> None:
    """ValueError unless a checkpoint's parameter names are those expected."""
    if expected != found:
        problem = "lacks" if expected - found else "has"
        name = sorted(expected - found or found - expected)[0]
        raise ValueError(f"{source} {problem} {name}: its beacons are on the projections params={projections(found)}")
