"""What sources yield: documents, and records that are none; and how many of the latter are put up with."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from lightning.pytorch.utilities import rank_zero_only

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

    def documents(self, tokenizer: Any) -> Iterator[Document | BadRecord]:
        """All documents, in the same order every time. Only synthetic text needs the tokenizer."""


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


def read(source: Source, tokenizer: Any, tolerance: Tolerance, counts: Counter[str]) -> Iterator[Document]:
    """A source's documents. Bad records are logged and counted by kind.

    Raises ValueError naming file and line: the first bad record if strict, or one more than allowed.
    """
    bad = 0
    for record in source.documents(tokenizer):
        if not isinstance(record, BadRecord):
            yield record
            continue
        bad += 1
        counts[record.kind] += 1
        if tolerance.strict:
            raise ValueError(f"{record} (strict=true)")
        if bad > tolerance.max_bad:
            raise ValueError(f"{record}; that is bad record {bad} of {source.name}, max_bad={tolerance.max_bad}")
        if bad <= 10:
            _warn(f"skipped: {record}")


@rank_zero_only
def _warn(message: str) -> None:
    logging.getLogger(__name__).warning(message)
