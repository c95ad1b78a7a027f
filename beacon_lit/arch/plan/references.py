"""References to keys, before they become the indices of a `Layout`.

Reference p >= 0 is entry p of [stream | moving], reference r < 0 is entry -r - 1 of the cache's fixed entries.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Attended:
    """References to the queries and keys of one sequence of an attention call; its queries are the last of its keys.

    Attributes:
        queries, keys: references.
        slots: slot of each key.
    """

    queries: np.ndarray
    keys: np.ndarray
    slots: np.ndarray


@dataclass(frozen=True)
class End:
    """References to what a row leaves in the cache: memory and open window, each with slots, and moving entries."""

    memory: np.ndarray
    memory_slots: np.ndarray
    open: np.ndarray
    open_slots: np.ndarray
    moving: np.ndarray
