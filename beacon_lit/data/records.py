"""What sources read: documents, and malformed records that are skipped up to a limit.

A record is a source record here: one entry of a file. The records of an evaluation are graded answers.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from beacon_lit.data.checks import check_int

Document = dict[str, Any]
"""`id`, and one of
- `text`: str;
- `conversations`: [{"role": str, "content": str}, ...], with all other keys of the messages (see `message_keys`); and
  `tools`, a list, where the assistant may call tools;
- `input_ids`: (L,) int32, token ids of a pre-tokenised document; with `trained`: (L,) bool, the tokens with loss
  (default: all), and `answer`: (L,) bool, the tokens of answers (default: none).
"""


@dataclass(frozen=True)
class MalformedRecord:
    """A record that cannot become a document.

    Attributes:
        kind: a short name for counts, such as "invalid_json".
        where: file, and line or number of the record.
        reason: what is wrong, in words.
    """

    kind: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


SourceRecord = Document | MalformedRecord
"""What a source yields for one entry of a file."""

Partition = Callable[[], Iterator[SourceRecord]]
"""A part of a source, such as a file: each call reads the part from its start."""


class MalformedError(Exception):
    """A record, or the rest of a file, is malformed; see `MalformedRecord` for the arguments."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


class Source(Protocol):
    """Where documents come from.

    Attributes:
        name: for logs and counts.
        limit: samples of the source that are kept, drawn at random from those of a fit length; None = all.
        weight: share of the source in the training mixture, relative to the weights of the other sources; None =
            as many samples as the source has.
        answer_share: share of a sample's loss that its answer tokens have together; None = all trained tokens count 1.
    """

    @property
    def name(self) -> str: ...

    @property
    def limit(self) -> int | None: ...

    @property
    def weight(self) -> float | None: ...

    @property
    def answer_share(self) -> float | None: ...

    def key(self) -> Any:
        """Return all that the documents depend on, JSON-able: settings; name, size and time of change of files."""

    def documents(self, tokenizer: Any) -> Iterator[SourceRecord]:
        """Yield all records, in the same order every time. Only synthetic text needs the tokenizer."""

    def partitions(self, tokenizer: Any) -> Sequence[Partition]:
        """Return one or more parts that can be read apart; together they are `documents`. Streams share them out."""


@dataclass(frozen=True)
class Tolerance:
    """How many malformed records of a source are skipped.

    Args:
        strict: whether the first malformed record is an error.
        max_bad: most malformed records that are skipped; one more is an error. The first ten are logged, all counted.
    """

    strict: bool = False
    max_bad: int = 100

    def __post_init__(self) -> None:
        check_int("max_bad", self.max_bad, 0)


class SkippedRecords:
    """The malformed records of a source: logged and counted by kind, until they are too many.

    Args:
        tolerance: how many are too many.
        name: of the source.
        counts: malformed records by kind; documents that are left out for other reasons are counted here, too.
        total: malformed records so far.
        log: whether to log them.
    """

    def __init__(self, tolerance: Tolerance, name: str, counts: Counter[str], total: int = 0, log: bool = True) -> None:
        self.tolerance, self.name, self.counts, self.total, self.log = tolerance, name, counts, total, log

    def skip(self, record: MalformedRecord) -> None:
        """Count a malformed record.

        Raises:
            ValueError: one more record than the tolerance allows; the message names file and line.
        """
        self.total += 1
        self.counts[record.kind] += 1
        if self.tolerance.strict:
            raise ValueError(f"{record} (strict=true)")
        if self.total > self.tolerance.max_bad:
            limit = f"max_bad={self.tolerance.max_bad}"
            raise ValueError(f"{record}; malformed record {self.total} of {self.name}, {limit}")
        if self.log and self.total <= 10:
            logging.getLogger(__name__).warning(f"skipped: {record}")


def read_documents(source: Source, tokenizer: Any, skipped: SkippedRecords) -> Iterator[Document]:
    """Yield a source's documents; malformed records go to `skipped`."""
    for record in source.documents(tokenizer):
        if isinstance(record, MalformedRecord):
            skipped.skip(record)
        else:
            yield record
