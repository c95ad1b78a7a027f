"""What sources read: documents, and malformed records that are skipped up to a limit.

A record is a source record here: one entry of a file. The records of an evaluation are graded answers.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from beacon_lit.checks import is_count

Document = dict[str, Any]
"""`id`, and one of
- `text`: str;
- `conversations`: [{"role": str, "content": str}, ...], with all other keys of the messages (see `message_keys`); and
  `tools`, a list, where the assistant may call tools;
- `input_ids`: (L,) int32, token ids of a pre-tokenised document; with `trained`: (L,) bool, the tokens with loss
  (default: all), and `answer`: (L,) bool, the tokens of answers (default: none).
"""


BLANK = "empty_text"  # the kind of a record without anything to read
_FLOOR = 100  # malformed records that a share always allows


@dataclass(frozen=True)
class MalformedRecord:
    """A record that cannot become a document.

    Attributes:
        kind: a short name for counts, such as "invalid_json".
        where: file, and line or number of the record.
        reason: what is wrong, in words.
        read: records that were read for this one: more than 1 if a source reads others without yielding these.
    """

    kind: str
    where: str
    reason: str
    read: int = 1

    @property
    def blank(self) -> bool:
        """Whether the record is well-formed, but has nothing to read: left out like a text that is too short."""
        return self.kind in (BLANK, "no_tokens")

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
        max_bad: most malformed records that are skipped; one more is an error. A share between 0 and 1, such as 0.01,
            is of the records read so far, and always allows 100; an integer is a number of records. The first ten are
            logged, all are counted.
    """

    strict: bool = False
    max_bad: float = 0.01

    def __post_init__(self) -> None:
        is_share = isinstance(self.max_bad, float) and 0 < self.max_bad < 1
        if not is_share and not is_count(self.max_bad):
            raise ValueError(f"max_bad={self.max_bad!r} must be an integer, at least 0, or a share above 0 and below 1")

    def allowed(self, read: int) -> int:
        """Return how many of `read` records may be malformed."""
        return self.max_bad if isinstance(self.max_bad, int) else max(_FLOOR, int(self.max_bad * read))

    def __str__(self) -> str:
        share = (
            "" if isinstance(self.max_bad, int) else f" ({self.max_bad:.3g} of the records read, and always {_FLOOR})"
        )
        return f"max_bad={self.max_bad}{share}"


class SkippedRecords:
    """The records of a source that become no documents: counted by kind; malformed ones logged until they are too many.

    Args:
        tolerance: how many malformed records are too many.
        name: of the source.
        counts: malformed and blank records by kind; documents left out for other reasons are counted here, too.
        total: malformed records so far.
        read: records read so far.
        log: whether to log malformed records.
    """

    def __init__(
        self, tolerance: Tolerance, name: str, counts: Counter[str], total: int = 0, read: int = 0, log: bool = True
    ) -> None:
        self.tolerance, self.name, self.counts = tolerance, name, counts
        self.total, self.read, self.log = total, read, log
        self.first: MalformedRecord | None = None

    def documents(self, records: Iterable[SourceRecord]) -> Iterator[Document]:
        """Yield the documents among some records.

        Raises:
            ValueError: see `skip`; or all of the source's records are malformed.
        """
        for record in records:
            if (document := self.taken(record)) is not None:
                yield document
        self.finish()

    def taken(self, record: SourceRecord) -> Document | None:
        """Count a record that was read, and return it if it is a document; see `skip` for errors."""
        if isinstance(record, MalformedRecord):
            self.read += record.read
            self.skip(record)
            return None
        self.read += 1
        return record

    def finish(self) -> None:
        """Raise a ValueError if all records were malformed: the source is of another kind than the settings say."""
        if self.total and self.total == self.read:
            raise ValueError(f"{self.first}; all {self.read:,} records of {self.name} are malformed: {self.reasons}")

    def skip(self, record: MalformedRecord) -> None:
        """Count a record that becomes no document.

        Raises:
            ValueError: one more malformed record than the tolerance allows; the message names file and line.
        """
        self.counts[record.kind] += 1
        if record.blank:
            return
        self.total += 1
        self.first = self.first or record
        if self.tolerance.strict:
            raise ValueError(f"{record} (strict=true)")
        if self.total > (allowed := self.tolerance.allowed(self.read)):
            raise ValueError(
                f"{record}; malformed record {self.total:,} of {self.name}, {self.tolerance} allows {allowed:,} of the "
                f"{self.read:,} records read; left out so far: {self.reasons}"
            )
        if self.log and self.total <= 10:
            logging.getLogger(__name__).warning(f"skipped: {record}")

    @property
    def reasons(self) -> str:
        """What was left out, by reason, in words."""
        return ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.counts.items()) if count) or "nothing"


def deferred(source: Source, tokenizer: Any) -> Iterator[SourceRecord]:
    """Yield a source's records; a source whose documents take long to make may defer them to worker processes.

    Such a source has a method `deferred` beside `documents`. A deferred document has an `id` and, as `make`, a function
    of the tokenizer that makes the document.
    """
    return getattr(source, "deferred", source.documents)(tokenizer)


def read_documents(source: Source, tokenizer: Any, skipped: SkippedRecords) -> Iterator[Document]:
    """Yield a source's documents; malformed records go to `skipped`."""
    return skipped.documents(source.documents(tokenizer))
