"""Name a cache as the installed transformers does: `cache` from 5.24 on, `past_key_values` before.

Callers may use either name with every version. Outputs and models of 5.24 warn of the older name.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import cache as remember
from typing import Any

NAMES = ("cache", "past_key_values")


def name_in(output: Any) -> str:
    """Return the name under which an output of transformers, or of this package, has its cache."""
    return NAMES[0] if hasattr(output, NAMES[0]) else NAMES[1]


def cache_of(output: Any) -> Any:
    """Return the cache of an output: of a forward pass or of `generate`, with beacons or of the dense backbone."""
    return getattr(output, name_in(output))


def named_for(forward: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments in which the cache has the name that a model's forward pass knows.

    Args:
        forward: the forward pass of a class of transformers.
        arguments: arguments by name; at most one is a cache.
    """
    known = _known_name(forward)
    return {known if name in NAMES else name: value for name, value in arguments.items()}


@remember
def _known_name(forward: Callable[..., Any]) -> str:
    return NAMES[0] if NAMES[0] in inspect.signature(forward).parameters else NAMES[1]
