"""What sources yield: documents, and records that are none; and how many of the latter are put up with."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from beacon_lit.data.sample import check_int

Document = dict[str, Any]
"""`id`, and one of
- `text`: str;
- `conversations`: [{"role": str, "content": str}, ...];
- `input_ids`: (L,) int32, tokens as they are; with `trained`: (L,) bool, where there is loss (default: everywhere), and
  `answer`: (L,) bool, which of them are an answer (default: none).
"""


@dataclass(frozen=True)
class BadRecord:
    """A record that is no document.

    kind: a short name to count it under, such as "invalid_json"
    where: file, and line or record
    reason: what is wrong, for a person
    """

    kind: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


Record = Document | BadRecord
Shard = Callable[[], Iterator[Record]]
"""A part of a source, such as a file, read from its start whenever it is called."""


def in_turns(roles: Sequence[Any]) -> bool:
    """Whether a conversation's roles are user, assistant, user, ... after an optional system."""
    turns = roles[1:] if roles[:1] == ["system"] else roles
    return len(turns) > 0 and list(turns) == [("user", "assistant")[i % 2] for i in range(len(turns))]


class Source(Protocol):
    """Where documents come from.

    name: for logs and counts
    limit: keep a random sample of this many samples (after those of unfit length are left out); None = all
    weight: share of this source in the training mixture, against the others'; None = as many as it has
    answer_share: share of a sample's loss that its answer tokens have together; None = every trained token counts alike
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
        """What its documents depend on, JSON-able: settings; of files name, size and time of the last change."""

    def documents(self, tokenizer: Any) -> Iterator[Record]:
        """All documents, in the same order every time. Only synthetic text needs the tokenizer."""

    def shards(self, tokenizer: Any) -> Sequence[Shard]:
        """Parts that can be read apart, at least one; together they are `documents`. Streams share them out."""


@dataclass(frozen=True)
class Tolerance:
    """How many bad records of a source are skipped before that is an error.

    strict: the first one is
    max_bad: records; each is logged up to the tenth, and counted
    """

    strict: bool = False
    max_bad: int = 100

    def __post_init__(self) -> None:
        check_int("max_bad", self.max_bad, 0)


class BadRecords:
    """Skips a source's bad records: logs and counts them by kind, until they are too many.

    name: of the source
    counts: how many of each kind; what else is left out is counted beside them
    total: of all kinds, so far
    log: whether to log them
    """

    def __init__(self, tolerance: Tolerance, name: str, counts: Counter[str], total: int = 0, log: bool = True) -> None:
        self.tolerance, self.name, self.counts, self.total, self.log = tolerance, name, counts, total, log

    def skip(self, record: BadRecord) -> None:
        """Count one. Raises ValueError naming file and line: the first if strict, or one more than allowed."""
        self.total += 1
        self.counts[record.kind] += 1
        if self.tolerance.strict:
            raise ValueError(f"{record} (strict=true)")
        if self.total > self.tolerance.max_bad:
            limit = f"max_bad={self.tolerance.max_bad}"
            raise ValueError(f"{record}; that is bad record {self.total} of {self.name}, {limit}")
        if self.log and self.total <= 10:
            logging.getLogger(__name__).warning(f"skipped: {record}")


def read(source: Source, tokenizer: Any, bad: BadRecords) -> Iterator[Document]:
    """A source's documents; bad records are skipped."""
    for record in source.documents(tokenizer):
        if isinstance(record, BadRecord):
            bad.skip(record)
        else:
            yield record
