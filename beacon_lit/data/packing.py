"""Which samples share a step: a budget of tokens takes the place of a batch size."""

from bisect import bisect_left, insort
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from beacon_lit.data.sample import check_int

# Lengths are compared in units of 1/64 of their mean: fine enough to fill a budget, coarse enough that many samples tie
# and so get other neighbours in every epoch.
_LEVELS = 64

Batch = list[int]


@dataclass(frozen=True, eq=False)
class BatchOrder:
    """The batches of every epoch, as indices of samples: a pure function of the fields and the epoch's number.

    lengths: tokens of each sample
    max_tokens: the most tokens of a batch (on one rank)
    seed: of the order. All epochs have the same number of batches, in another order and with other neighbours
    rank, world_size: this process's share. Ranks have disjoint batches, and equally many
    """

    lengths: list[int]
    max_tokens: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        check_int("max_tokens", self.max_tokens, 1)
        check_int("world_size", self.world_size, 1)
        longest = max(self.lengths, default=0)
        if longest > self.max_tokens:
            raise ValueError(
                f"max_tokens={self.max_tokens} must be at least the length of the longest sample, {longest}"
            )

    def __len__(self) -> int:
        return self._batches_in_epoch // self.world_size

    @property
    def dropped(self) -> int:
        """Samples left out of an epoch, so that ranks have equally many batches: fewer than ranks, others each time."""
        return self._batches_in_epoch % self.world_size

    @cached_property
    def _batches_in_epoch(self) -> int:
        return len(self._all_batches(0))

    def epoch(self, number: int) -> list[Batch]:
        """This rank's batches of one epoch, in order."""
        batches = self._all_batches(number)
        return batches[self.rank : len(self) * self.world_size : self.world_size]

    def _all_batches(self, epoch: int) -> list[Batch]:
        rng = np.random.default_rng([self.seed, epoch])
        batches = split_to_multiple(pack(self.lengths, self.max_tokens, rng), self.world_size)
        return [batches[i] for i in rng.permutation(len(batches))]


def pack(lengths: list[int], max_tokens: int, rng: np.random.Generator) -> list[Batch]:
    """Put samples into as few batches of at most `max_tokens` as best-fit-decreasing finds.

    Samples of about the same length are interchangeable and drawn at random, so the number of batches does not depend
    on `rng`.
    """
    unit = max(1, sum(lengths) // max(1, len(lengths)) // _LEVELS)
    capacity = max_tokens // unit
    units = np.minimum(-(-np.array(lengths, dtype=np.int64) // unit), capacity)
    shuffled = rng.permutation(len(lengths))
    longest_first = shuffled[np.argsort(-units[shuffled], kind="stable")]
    batch: Batch
    batches: list[Batch] = []
    with_room: dict[int, list[Batch]] = {}  # by units of room left
    rooms: list[int] = []  # its keys, sorted
    for sample, size in zip(longest_first.tolist(), units[longest_first].tolist(), strict=True):
        place = bisect_left(rooms, size)
        if place == len(rooms):
            room = capacity
            batches.append(batch := [])
        else:
            room = rooms[place]
            batch = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[place]
        batch.append(sample)
        if room - size not in with_room:
            insort(rooms, room - size)
        with_room.setdefault(room - size, []).append(batch)
    return batches


def split_to_multiple(batches: list[Batch], multiple: int) -> list[Batch]:
    """Halve the fullest batches until their number is a multiple, or all have a single sample."""
    batches = list(batches)
    while len(batches) % multiple:
        fullest = max(range(len(batches)), key=lambda i: len(batches[i]))
        batch = batches[fullest]
        if len(batch) == 1:
            break
        batches[fullest] = batch[::2]
        batches.append(batch[1::2])
    return batches
