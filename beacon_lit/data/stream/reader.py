"""A reader's share of a source: samples without end, each with the position behind it."""

import logging
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np

from beacon_lit.data.records import BadRecord, BadRecords, Document, Shard, Source, Tolerance
from beacon_lit.data.sample import LengthRule, Sample
from beacon_lit.data.tokenize import CHUNK, CHUNK_CHARACTERS, chunks, make_samples, size

log = logging.getLogger(__name__)


class Position(NamedTuple):
    """How far a reader has come in a source.

    epoch: passes it has made
    shard: of this pass, shards it has read to their end
    record: of the next shard, records it has read or left to others
    bad: bad records of this pass
    used: of the documents that come next and are tokenised together, samples that are used
    """

    epoch: int = 0
    shard: int = 0
    record: int = 0
    bad: int = 0
    used: int = 0


@dataclass(frozen=True, eq=False)
class SourceReader:
    """What one of several readers reads of a source, pass after pass.

    In every pass the shards come in another order and are dealt out anew. Where there are fewer shards than readers,
    each reader goes through all of them, and takes a record in turn. In either case no two readers have a record in
    common in a pass, and together they have all.

    source, tokenizer, rule, tolerance: as for `make_store`; bad records are counted in each pass and by each reader
    shards: the source's, in the same order for all readers
    reader, readers: which one of how many
    log_bad: log bad records (those of the first pass, so that each is logged once)
    left_out: counts what becomes no sample, by reason, in all passes
    """

    source: Source
    shards: Sequence[Shard]
    tokenizer: Any
    rule: LengthRule
    tolerance: Tolerance
    reader: int = 0
    readers: int = 1
    log_bad: bool = True
    left_out: Counter[str] = field(default_factory=Counter)

    def samples(self, start: Position) -> Iterator[tuple[Sample, Position]]:
        """Samples from a position on, without end.

        Raises ValueError: see `records.BadRecords`; a whole pass without a sample.
        """
        for epoch in count(start.epoch):
            begin, found = start if epoch == start.epoch else Position(epoch), False
            for item in self._pass(begin):
                found = True
                yield item
            if not found and begin == Position(epoch):
                raise ValueError(
                    f"{self.source.name}: no text fits min_length={self.rule.min_length}, "
                    f"max_length={self.rule.max_length}, window={self.rule.window} in the share of reader "
                    f"{self.reader + 1} of {self.readers}; left out: {dict(self.left_out) or 'nothing'}. A source must "
                    "have samples for every reader: num_workers times ranks"
                )
            if not self.reader:
                log.info(f"{self.source.name}: pass {epoch + 1} is over, the next begins")

    def _pass(self, start: Position) -> Iterator[tuple[Sample, Position]]:
        bad = BadRecords(
            self.tolerance, self.source.name, self.left_out, start.bad, log=self.log_bad and not start.epoch
        )
        own = self._own_shards(start.epoch)
        for number in range(start.shard, len(own)):
            at = start if number == start.shard else Position(start.epoch, number, bad=bad.total)
            for chunk in chunks(
                self._documents(own[number], at, bad), lambda item: size(item[1]), CHUNK, CHUNK_CHARACTERS
            ):
                documents = (document for _, document in chunk)
                samples = list(make_samples(documents, self.tokenizer, self.rule, bad, self.source.answer_share))
                for used, sample in enumerate(samples[at.used :], at.used + 1):
                    yield sample, at._replace(used=used)
                at = Position(start.epoch, number, chunk[-1][0] + 1, bad.total)

    def _documents(self, shard: int, at: Position, bad: BadRecords) -> Iterator[tuple[int, Document]]:
        """(place in the shard, document) of those that are this reader's."""
        for place, record in islice(enumerate(self.shards[shard]()), at.record, None):
            # Counted from the shard's number on: the first records of many small shards are not all the first reader's.
            if not self._shards_suffice and (place + at.shard) % self.readers != self.reader:
                continue
            if isinstance(record, BadRecord):
                bad.skip(record)
            else:
                yield place, record

    def _own_shards(self, epoch: int) -> list[int]:
        rng = np.random.default_rng([self.rule.seed, zlib.crc32(self.source.name.encode()), epoch])
        order = rng.permutation(len(self.shards)).tolist()
        return order[self.reader :: self.readers] if self._shards_suffice else order

    @cached_property
    def _shards_suffice(self) -> bool:
        return len(self.shards) >= self.readers
