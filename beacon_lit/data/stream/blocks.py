"""Samples of a mixture -> blocks of batches, each with the position of its start."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from beacon_lit.data.checks import check_int
from beacon_lit.data.length_rule import LengthRule
from beacon_lit.data.order import interleaved
from beacon_lit.data.packing import Batch, pack
from beacon_lit.data.records import Partition, Source, Tolerance
from beacon_lit.data.sample import Sample
from beacon_lit.data.statistics import SourceStatistics, statistics
from beacon_lit.data.stream.reader import RecordPosition, SourceReader


class BatchPosition(NamedTuple):
    """How far a reader has come.

    Attributes:
        block: blocks that are finished.
        sources: where the next block begins in each source.
        done: batches of the next block that are made.
    """

    block: int
    sources: tuple[RecordPosition, ...]
    done: int = 0


class Block(NamedTuple):
    """Samples that are shuffled and packed together.

    Attributes:
        samples: in the order in which they were drawn.
        sources: (samples,) int64, the number of each sample's source.
        batches: indices of the samples of each batch, in the order of training.
        left_out: documents that were left out so far, by source and reason.
    """

    samples: list[Sample]
    sources: np.ndarray
    batches: list[Batch]
    left_out: Mapping[str, Counter[str]]

    def statistics(self, names: Sequence[str]) -> list[SourceStatistics]:
        """Summarise the block, source by source; the names say that these are the first samples of a stream."""
        lengths = np.array([len(sample) for sample in self.samples])
        trained = np.array([np.count_nonzero(sample.weights) for sample in self.samples])
        titles = {name: f"{name} (first {len(lengths):,} samples of the stream)" for name in names}
        parts = [(titles[name], self.sources == number) for number, name in enumerate(names)]
        left_out = {titles[name]: reasons for name, reasons in self.left_out.items()}
        return statistics(((title, lengths[own], trained[own]) for title, own in parts), left_out)


@dataclass(frozen=True, eq=False)
class StreamMixture:
    """Sources that are mixed by weight into blocks, each reader for itself.

    Args:
        sources: one or more.
        weights: of the sources; None is allowed for a single source.
        tokenizer, rule, tolerance: see `SourceReader`; `rule.seed` is the seed of all orders, too.
        size: samples of a block. Larger blocks are shuffled and packed better, and take more memory.
        max_tokens: most tokens of a batch.

    Raises:
        ValueError: a size below 1, several sources without weights, a source with a limit.
    """

    sources: Sequence[Source]
    weights: Sequence[float] | None
    tokenizer: Any
    rule: LengthRule
    tolerance: Tolerance
    size: int
    max_tokens: int

    def __post_init__(self) -> None:
        check_int("stream", self.size, 1)
        for source in self.sources:
            if source.limit is not None:
                raise ValueError(f"limit={source.limit} of {source.name!r} must be null in a stream")
            if self.weights is None and len(self.sources) > 1:
                raise ValueError(
                    f"weight=null of {source.name!r} must be a number in a stream of several sources, whose sizes are "
                    "unknown"
                )

    @cached_property
    def partitions(self) -> list[Sequence[Partition]]:
        """The partitions of each source. Opens the sources, so that an unreachable dataset is an error here."""
        return [source.partitions(self.tokenizer) for source in self.sources]

    @property
    def start(self) -> BatchPosition:
        """Where every reader begins."""
        return BatchPosition(0, tuple(RecordPosition() for _ in self.sources))

    def description(self, readers: int) -> str:
        """Describe the stream for the log: readers, and sources with too few partitions for all of them."""
        named = zip(self.sources, self.partitions, strict=True)
        short = [source.name for source, partitions in named if len(partitions) < readers]
        way = "has fewer files: every process reads all of them, and takes a share of the records"
        notes = "".join(f"; {name} {way}" for name in short)
        return f"a stream in blocks of {self.size:,} samples, read by {readers} processes{notes}"

    def blocks(
        self, reader: int, readers: int, start: BatchPosition, log_malformed: bool = True
    ) -> Iterator[tuple[BatchPosition, Block]]:
        """Yield a reader's blocks from the block of `start` on, without end, each with the position of its start.

        The first block is whole: it has the batches before `start`, too.

        Args:
            reader, readers: number of the reader, and how many read.
            start: where to begin.
            log_malformed: see `SourceReader`.

        Raises:
            ValueError: see `SourceReader.samples`.
        """
        source_readers = [
            SourceReader(source, partitions, self.tokenizer, self.rule, self.tolerance, reader, readers, log_malformed)
            for source, partitions in zip(self.sources, self.partitions, strict=True)
        ]
        streams = [own.samples(position) for own, position in zip(source_readers, start.sources, strict=True)]
        positions = list(start.sources)
        for number in count(start.block):
            position = start if number == start.block else BatchPosition(number, tuple(positions))
            sources = interleaved(self.weights or [1.0], number * self.size, (number + 1) * self.size)
            samples = []
            for source in sources:
                sample, positions[source] = next(streams[source])
                samples.append(sample)
            rng = np.random.default_rng([self.rule.seed, reader, number])
            batches = pack(np.array([len(sample) for sample in samples]), self.max_tokens, rng)
            left_out = {own.source.name: Counter(own.left_out) for own in source_readers}
            yield position, Block(samples, sources, [batches[k] for k in rng.permutation(len(batches))], left_out)
