"""The order of samples and batches in training: a pure function of a seed and a number, for any mixture of sources."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

import numpy as np

from beacon_lit.data.checks import check_int
from beacon_lit.data.packing import Batch, pack

BLOCK = 65_536  # samples that are packed together
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, eq=False)
class SampleOrder:
    """An endless sequence of samples, in blocks.

    Without weights, every epoch has all samples once, in an order of its own. With weights, each source repeats its own
    shuffled samples at the rate of its weight: at any point its share of the samples is exact to within a few.

    Args:
        counts: samples of each source.
        weights: of each source, not normalised; None = all samples count alike.
        seed: of all orders.

    Raises:
        ValueError: a weight that is not above 0, or a source with a weight and without samples.
    """

    counts: Sequence[int]
    weights: Sequence[float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.weights is not None:
            for count, weight in zip(self.counts, self.weights, strict=True):
                if not weight > 0 or not count:
                    raise ValueError(f"weight={weight} of a source of {count} samples: both numbers must be above 0")

    @property
    def total(self) -> int:
        """Samples of an epoch: those of all sources."""
        return sum(self.counts)

    @property
    def blocks_in_epoch(self) -> int:
        """Blocks of an epoch, the last of which may be smaller."""
        return -(-self.total // BLOCK)

    def block(self, number: int) -> np.ndarray:
        """Return the samples of a block, (n,) int64: indices into the samples of all sources, source after source."""
        if self.weights is None:
            epoch, inside = divmod(number, self.blocks_in_epoch)
            return self._permutation(-1, self.total, epoch)[inside * BLOCK : (inside + 1) * BLOCK]
        before, own = self._counts_before(number), self._source_counts(number)
        offsets = [0, *accumulate(self.counts)]
        return np.concatenate(
            [
                offsets[source] + self._samples(source, before[source], before[source] + count)
                for source, count in enumerate(own)
            ]
        )

    def _source_counts(self, block: int) -> list[int]:
        """Number of samples of each source in a block."""
        assert self.weights is not None
        epoch, inside = divmod(block, self.blocks_in_epoch)
        start = epoch * self.total + inside * BLOCK
        end = min(start + BLOCK, (epoch + 1) * self.total)
        return np.bincount(interleaved(self.weights, start, end), minlength=len(self.weights)).tolist()

    def _counts_before(self, block: int) -> list[int]:
        """Number of samples of each source in all earlier blocks."""
        while len(self._known) <= block:
            own = self._source_counts(len(self._known) - 1)
            self._known.append([before + count for before, count in zip(self._known[-1], own, strict=True)])
        return self._known[block]

    @cached_property
    def _known(self) -> list[list[int]]:
        """The results of `_counts_before` so far."""
        return [[0] * len(self.counts)]

    def _samples(self, source: int, start: int, end: int) -> np.ndarray:
        """The samples `start` to `end` of a source's own endless sequence."""
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
    """Return the source of each sample `start` to `end` of an endless mixture, (end - start,) int64.

    At any point the share of each source is that of its weight, to within a few samples.
    """
    shares = np.cumsum(weights) / np.sum(weights)
    points = (np.arange(start, end) + 0.5) * _GOLDEN % 1  # spread evenly over 0 to 1 from any start
    return np.minimum(np.searchsorted(shares, points, side="right"), len(shares) - 1)


@lru_cache(maxsize=16)
def _permutation(seed: int, stream: int, count: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, epoch]).permutation(count)


@dataclass(frozen=True, eq=False)
class BatchOrder:
    """An endless sequence of batches, as indices of samples: a pure function of the arguments. Ranks take turns in it.

    The length is the number of batches of the first epoch. Without weights all samples come once before any comes
    again; with up to `BLOCK` samples, every epoch of that many batches has all samples once.

    Args:
        lengths: tokens of the samples, an integer array for each source.
        max_tokens: most tokens of a batch (on one rank).
        seed: of the order.
        weights: of the sources, see `SampleOrder`.

    Raises:
        ValueError: a sample of more than `max_tokens` tokens; see also `SampleOrder`.
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
        return sum(self._counts(self.sample_order.blocks_in_epoch))

    @cached_property
    def sample_order(self) -> SampleOrder:
        """The order in which samples are packed into batches."""
        return SampleOrder([len(part) for part in self.lengths], self.weights, self.seed)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Yield the batches from number `start` on, without end; nothing if there are no samples."""
        block = 0
        while self.sample_order.total:
            count = self._counts(block + 1)[block]
            if start < count:
                yield from self._block(block)[start:]
            start, block = max(start - count, 0), block + 1

    def _counts(self, blocks: int) -> list[int]:
        """Number of batches of each of the first blocks; remembered, since counting takes packing."""
        while len(self._known_counts) < blocks:
            self._known_counts.append(len(self._block(len(self._known_counts))))
        return self._known_counts[:blocks]

    def _block(self, block: int) -> list[Batch]:
        if block not in self._recent:
            samples = self.sample_order.block(block)
            rng = np.random.default_rng([self.seed, block])
            batches = pack(self._all_lengths[samples], self.max_tokens, rng)
            chosen = [[int(samples[i]) for i in batches[k]] for k in rng.permutation(len(batches))]
            if len(self._recent) >= 2:
                self._recent.clear()
            self._recent[block] = chosen
        return self._recent[block]

    @cached_property
    def _known_counts(self) -> list[int]:
        """The results of `_counts` so far."""
        return []

    @cached_property
    def _recent(self) -> dict[int, list[Batch]]:
        """The last one or two blocks."""
        return {}

    @cached_property
    def _all_lengths(self) -> np.ndarray:
        return np.concatenate([np.empty(0, np.int32), *self.lengths])
