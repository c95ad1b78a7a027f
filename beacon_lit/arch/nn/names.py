"""Which of a model's parameters are the beacons', which an adapter's, and which the backbone's."""

from collections.abc import Iterable


def is_beacon(name: str) -> bool:
    """Whether a parameter of this name belongs to the beacons."""
    return ".beacon_" in name


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to a LoRA adapter of the backbone (`arch.adapter`)."""
    return ".lora_" in name


def is_backbone(name: str) -> bool:
    """Whether a parameter of this name is the backbone's own."""
    return not (is_beacon(name) or is_adapter(name))


def projections(names: Iterable[str]) -> tuple[str, ...]:
    """The projections that beacons of these parameters have, in alphabetical order: ("k", "q", "v")."""
    parts = {part for name in names for part in name.split(".")}
    return tuple(sorted(p.split("_")[1] for p in parts if p.startswith("beacon_") and p.endswith("_proj")))


def check_names(expected: set[str], found: set[str], source: str) -> None:
    """ValueError unless a checkpoint's parameter names are those expected."""
    if expected != found:
        problem = "lacks" if expected - found else "has"
        name = sorted(expected - found or found - expected)[0]
        beacons = f"its beacons are on the projections params={projections(found)}"
        raise ValueError(
            f"{source} {problem} {name}: {beacons if is_beacon(name) else 'other weights are trained there'}"
        )
