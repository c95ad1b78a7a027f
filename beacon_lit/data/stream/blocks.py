"""Samples of a mixture -> blocks of batches, each with the position it begins at."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from beacon_lit.data.order import interleaved
from beacon_lit.data.packing import pack
from beacon_lit.data.records import Shard, Source, Tolerance
from beacon_lit.data.sample import LengthRule, Sample, check_int
from beacon_lit.data.statistics import SourceStatistics, statistics
from beacon_lit.data.stream.reader import Position, SourceReader


class Place(NamedTuple):
    """How far a reader has come.

    block: blocks it has finished
    sources: where the next block begins in each source
    done: batches of that block it has made
    """

    block: int
    sources: tuple[Position, ...]
    done: int = 0


class Block(NamedTuple):
    """samples: in the order in which they were drawn
    sources: (samples,) int64, the number of each one's source
    batches: which samples are in each, in the order of training
    left_out: what became no sample on the way to these, by source and reason
    """

    samples: list[Sample]
    sources: np.ndarray
    batches: list[list[int]]
    left_out: Mapping[str, Counter[str]]

    def statistics(self, names: Sequence[str]) -> list[SourceStatistics]:
        """What the block is made of, source by source; they say that it is one block."""
        lengths = np.array([len(sample) for sample in self.samples])
        trained = np.array([np.count_nonzero(sample.weights) for sample in self.samples])
        titles = {name: f"{name} (first {len(lengths):,} samples of the stream)" for name in names}
        parts = [(title, self.sources == number) for number, title in enumerate(map(titles.__getitem__, names))]
        left_out = {titles[name]: reasons for name, reasons in self.left_out.items()}
        return statistics(((title, lengths[own], trained[own]) for title, own in parts), left_out)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Sources mixed by weight into blocks, as one of several readers reads them.

    sources: one or more
    weights: of each; None: there is only one
    tokenizer, rule, tolerance: see `SourceReader`; `rule.seed` is the seed of all orders, too
    size: samples of a block. They are shuffled, and packed into batches: the larger, the better it does both, and the
        more memory it takes
    max_tokens: the most tokens of a batch

    Raises ValueError: a size below 1, several sources without weights, a source with a limit.
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
                    f"weight=null of {source.name!r} must be a number in a stream of several sources: how large they "
                    "are is not known"
                )

    @cached_property
    def shards(self) -> list[Sequence[Shard]]:
        """Of each source. Opens the sources: a dataset that cannot be reached is an error now."""
        return [source.shards(self.tokenizer) for source in self.sources]

    @property
    def start(self) -> Place:
        """Where every reader begins."""
        return Place(0, tuple(Position() for _ in self.sources))

    def description(self, readers: int) -> str:
        """For the log: how many read, and which sources have too few shards to be dealt out among them."""
        short = [source.name for source, shards in zip(self.sources, self.shards, strict=True) if len(shards) < readers]
        ways = [f"; all of them go through {name}, which has fewer files, and take a record in turn" for name in short]
        return f"a stream in blocks of {self.size:,} samples, read by {readers} processes{''.join(ways)}"

    def blocks(self, reader: int, readers: int, start: Place, log_bad: bool = True) -> Iterator[tuple[Place, Block]]:
        """A reader's blocks from the one on that `start` is in, each with its place; without end.

        The batches already made of the first are still in it. `log_bad`: see `SourceReader`.

        Raises ValueError: see `SourceReader.samples`.
        """
        shares = [
            SourceReader(source, shards, self.tokenizer, self.rule, self.tolerance, reader, readers, log_bad)
            for source, shards in zip(self.sources, self.shards, strict=True)
        ]
        streams = [share.samples(at) for share, at in zip(shares, start.sources, strict=True)]
        positions = list(start.sources)
        for number in count(start.block):
            place = start if number == start.block else Place(number, tuple(positions))
            sources = interleaved(self.weights or [1.0], number * self.size, (number + 1) * self.size)
            samples = []
            for source in sources:
                sample, positions[source] = next(streams[source])
                samples.append(sample)
            rng = np.random.default_rng([self.rule.seed, reader, number])
            batches = pack(np.array([len(sample) for sample in samples]), self.max_tokens, rng)
            left_out = {share.source.name: Counter(share.left_out) for share in shares}
            yield place, Block(samples, sources, [batches[k] for k in rng.permutation(len(batches))], left_out)
