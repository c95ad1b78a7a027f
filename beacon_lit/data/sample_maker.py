"""Makes samples of a few documents, in any process, and notes what is left out."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from beacon_lit.data.length_rule import LengthRule
from beacon_lit.data.records import Document, MalformedRecord, SkippedRecords, Tolerance
from beacon_lit.data.store import Row, store_row
from beacon_lit.data.tokenize import make_samples


class Task(NamedTuple):
    """A few documents of a source, and the source's answer_share. A document may be deferred, see `records`."""

    documents: list[Document]
    answer_share: float | None


class LeftOut(NamedTuple):
    """Documents that are left out, by reason, up to a malformed record (None: up to the end of the task)."""

    counts: Counter[str]
    malformed: MalformedRecord | None


Made = tuple[list[Row], list[LeftOut]]  # what becomes of a task


@dataclass(frozen=True)
class SampleMaker:
    """Makes the samples of tasks.

    Args:
        tokenizer: a Hugging Face tokenizer with an end-of-text token.
        rule: lengths of samples.
    """

    tokenizer: Any
    rule: LengthRule

    def __call__(self, task: Task) -> Made:
        """Return the rows of a store, and what is left out, in order; see `make_samples` for errors."""
        noted = _Noted()
        documents = (
            document["make"](self.tokenizer) if "make" in document else document for document in task.documents
        )
        samples = make_samples(documents, self.tokenizer, self.rule, noted, task.answer_share)
        rows = [store_row(sample) for sample in samples]
        return rows, [*noted.left_out, LeftOut(noted.counts, None)]


class _Noted(SkippedRecords):
    """Notes malformed records, for the process that counts those of the whole source."""

    def __init__(self) -> None:
        super().__init__(Tolerance(), "", Counter())
        self.left_out: list[LeftOut] = []

    def skip(self, record: MalformedRecord) -> None:
        """Note a record, and what was left out before it."""
        self.left_out.append(LeftOut(self.counts.copy(), record))
        self.counts.clear()
