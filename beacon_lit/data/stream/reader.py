"""A reader's share of a source: endless samples, each with the position behind the sample."""

import logging
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np

from beacon_lit.data.length_rule import LengthRule
from beacon_lit.data.records import Document, Partition, SkippedRecords, Source, Tolerance
from beacon_lit.data.sample import Sample
from beacon_lit.data.tokenize import CHUNK, CHUNK_CHARACTERS, in_chunks, make_samples, size

log = logging.getLogger(__name__)


class RecordPosition(NamedTuple):
    """How far a reader has come in a source.

    Attributes:
        epoch: passes that are finished.
        partition: partitions of this pass that are finished.
        record: records of the next partition that were read or left to other readers.
        malformed: malformed records of this pass.
        used: samples that were used of the next documents that are tokenised together.
        read: records of this pass that this reader has read, malformed ones included.
    """

    epoch: int = 0
    partition: int = 0
    record: int = 0
    malformed: int = 0
    used: int = 0
    read: int = 0


@dataclass(frozen=True, eq=False)
class SourceReader:
    """Reads one reader's share of a source, pass after pass.

    Every pass shuffles the partitions and shares them out among the readers. If there are fewer partitions than
    readers, every reader goes through all partitions and takes every `readers`-th record. Either way, the readers share
    no record in a pass, and together they read all.

    Args:
        source, tokenizer, rule, tolerance: see `make_stores`; every reader counts malformed records for itself, anew in
            each pass.
        partitions: all of the source, in the same order for all readers.
        reader, readers: number of this reader, and how many read.
        log_malformed: whether to log malformed records, in the first pass only, so that each is logged once.
        left_out: counts documents that are left out in all passes, by reason.
    """

    source: Source
    partitions: Sequence[Partition]
    tokenizer: Any
    rule: LengthRule
    tolerance: Tolerance
    reader: int = 0
    readers: int = 1
    log_malformed: bool = True
    left_out: Counter[str] = field(default_factory=Counter)

    def samples(self, start: RecordPosition) -> Iterator[tuple[Sample, RecordPosition]]:
        """Yield samples from a position on, without end.

        Raises:
            ValueError: too many malformed records (see `SkippedRecords`), or a whole pass without a sample.
        """
        for epoch in count(start.epoch):
            begin, found = start if epoch == start.epoch else RecordPosition(epoch), False
            for sample, position in self._pass(begin):
                found = True
                yield sample, position
            if not found and begin == RecordPosition(epoch):
                raise ValueError(
                    f"{self.source.name}: no text fits min_length={self.rule.min_length}, "
                    f"max_length={self.rule.max_length}, window={self.rule.window} in the share of reader "
                    f"{self.reader + 1} of {self.readers}; left out: {dict(self.left_out) or 'nothing'}. A source must "
                    "have samples for all readers, num_workers times ranks"
                )
            if not self.reader:
                log.info(f"{self.source.name}: pass {epoch + 1} is finished, the next begins")

    def _pass(self, start: RecordPosition) -> Iterator[tuple[Sample, RecordPosition]]:
        log_malformed = self.log_malformed and not start.epoch
        skipped = SkippedRecords(
            self.tolerance, self.source.name, self.left_out, start.malformed, start.read, log_malformed
        )
        own = self._own_partitions(start.epoch)
        for number in range(start.partition, len(own)):
            at = start
            if number != start.partition:
                at = RecordPosition(start.epoch, number, malformed=skipped.total, read=skipped.read)
            placed = self._documents(own[number], at, skipped)
            for chunk in in_chunks(placed, lambda item: size(item[1]), CHUNK, CHUNK_CHARACTERS):
                documents = (document for _, document in chunk)
                samples = list(make_samples(documents, self.tokenizer, self.rule, skipped, self.source.answer_share))
                for used, sample in enumerate(samples[at.used :], at.used + 1):
                    yield sample, at._replace(used=used)
                at = RecordPosition(start.epoch, number, chunk[-1][0] + 1, skipped.total, read=skipped.read)
        skipped.finish()

    def _documents(self, partition: int, at: RecordPosition, skipped: SkippedRecords) -> Iterator[tuple[int, Document]]:
        """Yield (place in the partition, document) of this reader's documents."""
        for place, record in islice(enumerate(self.partitions[partition]()), at.record, None):
            # Offset by the partition's number, or the first reader would get the first record of every small partition.
            if not self._partitions_suffice and (place + at.partition) % self.readers != self.reader:
                continue
            if (document := skipped.taken(record)) is not None:
                yield place, document

    def _own_partitions(self, epoch: int) -> list[int]:
        rng = np.random.default_rng([self.rule.seed, zlib.crc32(self.source.name.encode()), epoch])
        order = rng.permutation(len(self.partitions)).tolist()
        return order[self.reader :: self.readers] if self._partitions_suffice else order

    @cached_property
    def _partitions_suffice(self) -> bool:
        return len(self.partitions) >= self.readers
