"""Shares the batches of an evaluation among processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Ranks:
    """This process among those that evaluate the same model: each takes every `world_size`-th batch.

    Neither the batches nor the records depend on the number of processes.
    """

    rank: int = 0
    world_size: int = 1

    def own(self, count: int) -> range:
        """Return the numbers of this rank's batches, out of `count`."""
        return range(self.rank, count, self.world_size)

    def in_order(self, own: Sequence[Any], count: int) -> list[Any]:
        """Gather the results of all batches, in order, on every rank. Every rank must call it.

        Args:
            own: results of the batches `own(count)`, values that can be pickled.
            count: number of all batches.
        """
        parts: list[Any] = [own]
        if self.world_size > 1:
            parts = [None] * self.world_size
            torch.distributed.all_gather_object(parts, list(own))
        return [parts[i % self.world_size][i // self.world_size] for i in range(count)]
