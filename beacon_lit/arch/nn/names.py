"""Tell by its name whether a parameter belongs to the beacons, to an adapter or to the backbone."""

from collections.abc import Iterable


def is_beacon(name: str) -> bool:
    """Whether a parameter of this name belongs to the beacons."""
    return ".beacon_" in name


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to a LoRA adapter of the backbone (`checkpoint.adapter`)."""
    return ".lora_" in name


def is_backbone(name: str) -> bool:
    """Whether a parameter of this name belongs to the backbone."""
    return not (is_beacon(name) or is_adapter(name))


def projections(names: Iterable[str]) -> tuple[str, ...]:
    """Return the projections among beacon parameters of these names, in alphabetical order, e.g. ("k", "q", "v")."""
    modules = {module for name in names for module in name.split(".")}
    return tuple(sorted(p.split("_")[1] for p in modules if p.startswith("beacon_") and p.endswith("_proj")))


def check_names(expected: set[str], found: set[str], source: str) -> None:
    """Raise a ValueError unless a checkpoint from `source` has the parameter names expected."""
    if expected != found:
        problem = "lacks" if expected - found else "has"
        name = sorted(expected - found or found - expected)[0]
        beacons = f"its beacons are on the projections params={projections(found)}"
        raise ValueError(
            f"{source} {problem} {name}: {beacons if is_beacon(name) else 'other weights are trained there'}"
        )
