"""The dense backbone as the teacher of its own beacons."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from beacon_lit.arch.config import is_count
from beacon_lit.arch.windows import Row, Window


@dataclass(frozen=True)
class Teacher:
    """What the dense backbone is asked for in a forward pass.

    Attributes:
        temperature: of both distributions, above 0.
        length: tokens of a row that it reads, from the row's start; None: as many as it has positions.

    Raises:
        ValueError: one of them is out of range.
    """

    temperature: float = 1.0
    length: int | None = None

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature={self.temperature!r} is not allowed; allowed: a number above 0")
        if self.length is not None and not is_count(self.length, 1):
            raise ValueError(f"length={self.length!r} is not allowed; allowed: at least 1 token, or None")

    def reads(self, lengths: Sequence[int], positions: int) -> Tensor:
        """(R,) bool: which raw tokens of rows of these lengths it reads, with `positions` position slots."""
        limit = positions if self.length is None else min(self.length, positions)
        return torch.cat([torch.arange(length) < limit for length in lengths])


def dense_rows(lengths: Sequence[int]) -> tuple[Row, ...]:
    """Rows that are one window each, without beacons: to a beacon model the dense backbone, and no padding."""
    return tuple(Row((Window(length, ratio=0, beacons=0),)) for length in lengths)
