"""In which order samples are trained on: a pure function of a seed and a number, for any mixture of sources."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

import numpy as np

from beacon_lit.data.packing import Batch, pack
from beacon_lit.data.sample import check_int

BLOCK = 65_536  # samples that are packed at once
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, eq=False)
class Mixture:
    """An endless sequence of samples, in blocks.

    Without weights all samples come once, shuffled, then all again in another order. With weights each source goes
    through its own shuffled samples, again and again, as fast as its weight says: at any point its part of the samples
    is its share, to within a few.

    counts: samples of each source
    weights: of each source, not normalised; None = none has one
    seed: of all orders
    """

    counts: Sequence[int]
    weights: Sequence[float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.weights is not None:
            for count, weight in zip(self.counts, self.weights, strict=True):
                if not weight > 0 or not count:
                    raise ValueError(
                        f"weight={weight} of a source of {count} samples must be above 0, and so their number"
                    )

    @property
    def total(self) -> int:
        """Samples of all sources: an epoch."""
        return sum(self.counts)

    @property
    def blocks_in_epoch(self) -> int:
        """Blocks of an epoch."""
        return -(-self.total // BLOCK)

    def block(self, number: int) -> np.ndarray:
        """Samples of a block, as their places among those of all sources end to end."""
        if self.weights is None:
            epoch, inside = divmod(number, self.blocks_in_epoch)
            return self._permutation(-1, self.total, epoch)[inside * BLOCK : (inside + 1) * BLOCK]
        before, own = self._given(number), self._sources(number)
        offsets = [0, *accumulate(self.counts)]
        return np.concatenate(
            [
                offsets[source] + self._samples(source, before[source], before[source] + count)
                for source, count in enumerate(own)
            ]
        )

    def _sources(self, block: int) -> list[int]:
        """How many samples of a block are of each source."""
        assert self.weights is not None
        epoch, inside = divmod(block, self.blocks_in_epoch)
        start = epoch * self.total + inside * BLOCK
        end = min(start + BLOCK, (epoch + 1) * self.total)
        return np.bincount(interleaved(self.weights, start, end), minlength=len(self.weights)).tolist()

    def _given(self, block: int) -> list[int]:
        """How many samples each source has given before a block."""
        known: list[list[int]] = self.__dict__.setdefault("_known_given", [[0] * len(self.counts)])
        while len(known) <= block:
            own = self._sources(len(known) - 1)
            known.append([given + count for given, count in zip(known[-1], own, strict=True)])
        return known[block]

    def _samples(self, source: int, start: int, end: int) -> np.ndarray:
        """The samples that a source gives from its `start`-th to its `end`-th."""
        count, parts = self.counts[source], []
        while start < end:
            epoch, first = divmod(start, count)
            last = min(count, first + end - start)
            parts.append(self._permutation(source, count, epoch)[first:last])
            start += last - first
        return np.concatenate([np.empty(0, np.int64), *parts])

    def _permutation(self, source: int, count: int, epoch: int) -> np.ndarray:
        return _permutation(self.seed, source + 1, count, epoch)


def interleaved(weights: Sequence[float], start: int, end: int) -> np.ndarray:
    """Which source the samples from `start` to `end` of an endless mixture are of: (end - start,) int64.

    At any point each source has had its share of the weights, to within a few samples.
    """
    shares = np.cumsum(weights) / np.sum(weights)
    points = (np.arange(start, end) + 0.5) * _GOLDEN % 1  # spread evenly over 0 to 1, wherever one begins
    return np.minimum(np.searchsorted(shares, points, side="right"), len(shares) - 1)


@lru_cache(maxsize=16)
def _permutation(seed: int, stream: int, count: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, epoch]).permutation(count)


@dataclass(frozen=True, eq=False)
class BatchOrder:
    """An endless sequence of batches, as indices of samples: a pure function of the fields. Ranks take turns in it.

    lengths: of each source, the tokens of its samples
    max_tokens: the most tokens of a batch (on one rank)
    seed: of the order
    weights: of the sources, see `Mixture`

    Its length is the batches of the first epoch. Without weights, and of up to `BLOCK` samples, as many batches are all
    samples once. Of more, the sequence has all samples once before any comes again.
    """

    lengths: Sequence[np.ndarray]
    max_tokens: int
    seed: int = 0
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check_int("max_tokens", self.max_tokens, 1)
        longest = max((int(part.max()) for part in self.lengths if len(part)), default=0)
        if longest > self.max_tokens:
            raise ValueError(
                f"max_tokens={self.max_tokens} must be at least the length of the longest sample, {longest}"
            )

    def __len__(self) -> int:
        return sum(self._counts(self.mixture.blocks_in_epoch))

    @cached_property
    def mixture(self) -> Mixture:
        """The order of samples."""
        return Mixture([len(part) for part in self.lengths], self.weights, self.seed)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """From the `start`-th on, without end: block by block, as they are asked for. None if there are no samples."""
        block = 0
        while self.mixture.total:
            count = self._counts(block + 1)[block]
            if start < count:
                yield from self._block(block)[start:]
            start, block = max(start - count, 0), block + 1

    def _counts(self, blocks: int) -> list[int]:
        """Batches in each of the first blocks. Remembered: making them takes packing."""
        known: list[int] = self.__dict__.setdefault("_known_counts", [])
        while len(known) < blocks:
            known.append(len(self._block(len(known))))
        return known[:blocks]

    def _block(self, block: int) -> list[Batch]:
        cache: dict[int, list[Batch]] = self.__dict__.setdefault("_blocks", {})
        if block not in cache:
            samples = self.mixture.block(block)
            rng = np.random.default_rng([self.seed, block])
            batches = pack(self._all_lengths[samples], self.max_tokens, rng)
            chosen = [[int(samples[i]) for i in batches[k]] for k in rng.permutation(len(batches))]
            if len(cache) >= 2:
                cache.clear()
            cache[block] = chosen
        return cache[block]

    @cached_property
    def _all_lengths(self) -> np.ndarray:
        return np.concatenate([np.empty(0, np.int32), *self.lengths])
