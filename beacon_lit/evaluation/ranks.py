"""The processes that share an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Ranks:
    """This process among those that evaluate the same model: each takes every `world_size`-th batch.

    What is asked in one batch does not depend on how many they are, nor do the records.
    """

    rank: int = 0
    world_size: int = 1

    def own(self, count: int) -> range:
        """The numbers of this rank's batches, of so many."""
        return range(self.rank, count, self.world_size)

    def in_order(self, own: Sequence[Any], count: int) -> list[Any]:
        """What came of each batch, on every rank; `own` is what came of `own(count)`. Every rank must call it."""
        parts: list[Any] = [own]
        if self.world_size > 1:
            parts = [None] * self.world_size
            torch.distributed.all_gather_object(parts, list(own))
        return [parts[i % self.world_size][i // self.world_size] for i in range(count)]
