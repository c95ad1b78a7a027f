"""Samples packed into batches of a token budget, which takes the place of a batch size."""

from bisect import bisect_left, insort

import numpy as np

# Lengths are compared in units of 1/64 of their mean: fine enough to fill a budget, coarse enough that many samples are
# equal and get different neighbours in every epoch.
_LEVELS = 64

Batch = list[int]  # indices of samples


def pack(lengths: np.ndarray, max_tokens: int, rng: np.random.Generator) -> list[Batch]:
    """Pack samples into batches of at most `max_tokens`, as few as best-fit-decreasing finds.

    Samples of about the same length are interchangeable and drawn at random, so the number of batches does not depend
    on `rng`.

    Args:
        lengths: (n,) integers, tokens of each sample, none above `max_tokens`.
        max_tokens: most tokens of a batch.
        rng: draws the order of samples of about the same length.
    """
    unit = max(1, int(lengths.sum()) // max(1, len(lengths)) // _LEVELS)
    capacity = max_tokens // unit
    units = np.minimum(-(-lengths.astype(np.int64) // unit), capacity)
    shuffled = rng.permutation(len(lengths))
    longest_first = shuffled[np.argsort(-units[shuffled], kind="stable")]
    batch: Batch
    batches: list[Batch] = []
    with_room: dict[int, list[Batch]] = {}  # by the units of room that are left
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
