"""A source of numbered records, and shares, mixtures and loaders of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

from beacon_lit.data.length_rule import LengthRule
from beacon_lit.data.records import MalformedRecord, Partition, SourceRecord, Tolerance
from beacon_lit.data.stream.blocks import StreamMixture
from beacon_lit.data.stream.loader import StreamLoader
from beacon_lit.data.stream.reader import RecordPosition, SourceReader
from beacon_lit.tiny import byte_tokenizer

TOKENIZER = byte_tokenizer()
RULE = LengthRule(min_length=9, max_length=48, window=8, seed=3)


@dataclass(frozen=True)
class Numbered:
    """Shards of so many texts of 20 to 100 bytes, so that some are split; those of `bad` are no documents."""

    name: str
    sizes: tuple[int, ...]
    bad: tuple[str, ...] = ()
    weight: float | None = None
    answer_share: float | None = None
    limit: int | None = None

    def key(self) -> Any:
        return self.name

    def documents(self, tokenizer: Any) -> Iterator[SourceRecord]:
        return chain.from_iterable(partition() for partition in self.partitions(tokenizer))

    def partitions(self, tokenizer: Any) -> list[Partition]:
        return [partial(self.partition, number) for number in range(len(self.sizes))]

    def partition(self, number: int) -> Iterator[SourceRecord]:
        for i in range(self.sizes[number]):
            name = f"{self.name}{number}.{i}"
            if name in self.bad:
                yield MalformedRecord("bad", name, "is bad")
            else:
                yield {"id": name, "text": "x" * (20 + i * 37 % 81)}


def share(source: Numbered, reader: int = 0, readers: int = 1, **settings) -> SourceReader:
    settings = {"tolerance": Tolerance(), **settings}
    partitions = source.partitions(TOKENIZER)
    return SourceReader(source, partitions, TOKENIZER, RULE, reader=reader, readers=readers, **settings)


def passes(share: SourceReader, count: int, start: RecordPosition = RecordPosition()) -> list[list[str]]:  # noqa: B008
    """The ids of the samples of whole passes, from a position on."""
    found: list[list[str]] = [[] for _ in range(count)]
    for sample, position in share.samples(start):
        if position.epoch - start.epoch == count:
            return found
        found[position.epoch - start.epoch].append(sample.id)
    raise AssertionError("a stream has an end")


def mixture(*sources: Numbered, size: int = 10, **settings) -> StreamMixture:
    weights = [source.weight for source in sources] if len(sources) > 1 else None
    settings = {"tolerance": Tolerance(), "max_tokens": 100, **settings}
    return StreamMixture(sources, weights, TOKENIZER, RULE, size=size, **settings)


def ids(loader: StreamLoader, count: int) -> list[list[str]]:
    return [batch["index"] for batch in islice(loader, count)]
