"""Placements: where a window's beacons stand, at which slots, and who sees whom. One file each; see `Placement`."""

from functools import cache

from beacon_lit.arch import extensions
from beacon_lit.arch.placements.placement import MEMORY, OVERLAP, Arrangement, Placement, Tokens

__all__ = ["MEMORY", "OVERLAP", "Arrangement", "Placement", "Tokens", "find_placement", "placement_names"]


def placement_names() -> tuple[str, ...]:
    """List the names that `placement` may have in a config."""
    return extensions.names(__name__)


@cache
def find_placement(name: str) -> Placement:
    """Return the placement of this name, one of `placement_names()`."""
    return extensions.find(__name__, name).PLACEMENT
