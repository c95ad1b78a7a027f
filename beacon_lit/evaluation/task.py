"""The seam behind which every evaluation lives: a Task has examples, asks a model, and turns its records to scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from matplotlib.figure import Figure
from transformers import PreTrainedTokenizerBase

from beacon_lit.evaluation.modes import Model

if TYPE_CHECKING:
    from beacon_lit.evaluation.reader import Reader

Document = tuple[str, Sequence[int]]  # id, token ids of the whole text
Record = Mapping[str, Any]  # what one example came to, values as in JSON: a line of predictions.jsonl
ModeScores = Mapping[str, "Score"]  # mode name -> score, in the order of the table's rows
Results = Mapping[str, ModeScores]  # task name -> its scores


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and on what.

    Args:
        lm: the model, in eval mode.
        tokenizer: its tokenizer.
        read_documents: gives held-out texts, for tasks that do not bring their own; called when one asks.
    """

    lm: Model
    tokenizer: PreTrainedTokenizerBase
    read_documents: Callable[[], Sequence[Document]] = tuple

    @cached_property
    def documents(self) -> Sequence[Document]:
        """The held-out texts."""
        return self.read_documents()

    @property
    def prefix(self) -> list[int]:
        """What this tokenizer puts before every text: its bos token, or nothing."""
        start = self.tokenizer("")["input_ids"][:1]
        return list(start) if start and start[0] == self.tokenizer.bos_token_id else []


@dataclass(frozen=True)
class Example:
    """One thing to ask.

    Args:
        id: its name, another one for each of a task's examples.
        about: what its record tells of it, values as in JSON: answers, length, depth ...
        content: what the task asks the model with; not in the record.
    """

    id: str
    about: Record = field(default_factory=dict)
    content: Any = None


@dataclass(frozen=True)
class Score:
    """What a task found under one mode.

    Args:
        value: its one number, the one that tables show.
        details: further numbers by name, such as "window_3".
        costs: what it took: see `costs.costs`.
        predictions: the records, one per example.
    """

    value: float
    details: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    predictions: Sequence[Record] = ()


class Task(ABC):
    """An evaluation. Its settings are its constructor's; the name it goes by is its key in the config.

    Attributes:
        metric: what `Score.value` is, as in tables and figures.
        higher_is_better: whether more of it is.
        graded_by: the settings that `grade`, `score` and `figures` alone read: grading anew may change them.
    """

    metric: ClassVar[str] = "score"
    higher_is_better: ClassVar[bool] = True
    graded_by: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def examples(self, subject: Subject) -> Sequence[Example]:
        """All examples, in the order of the records; the same on every call and every rank."""

    @abstractmethod
    def predict(self, reader: Reader, examples: Sequence[Example]) -> Sequence[Record]:
        """What the model says to a batch of examples: for each a record, "tokens_in", "ratio", "cache_bytes" and
        "seconds" among it, as `Reader` gives them. Called without gradients; before a run once per example, up to
        what it first asks of the reader, which then measures the text and ends the call."""

    def grade(self, record: Record) -> Record:
        """What is added to an example's record (`about` and the prediction) without the model, such as "score"."""
        return {}

    @abstractmethod
    def score(self, records: Sequence[Record]) -> Score:
        """The score of all records, from what is in them alone."""

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """Figures by name. `runs` maps a label ("before training", or "" for a lone run) to its scores.

        The last run is the newest; the others may come without their predictions.
        """
        return {}


def mean_score(records: Sequence[Record], name: str = "score", by: Sequence[str] = ()) -> Score:
    """The mean of a field of all records, and as details the means of groups.

    Args:
        records: at least one.
        name: the field.
        by: fields whose values make up the groups: `by=("length", "depth")` gives "length_4096/depth_50".
    """
    groups: dict[str, list[float]] = {}
    for record in records if by else ():
        key = "/".join(f"{field}_{_short(record[field])}" for field in by)
        groups.setdefault(key, []).append(record[name])
    return Score(
        value=sum(record[name] for record in records) / len(records),
        details={key: sum(values) / len(values) for key, values in groups.items()},
    )


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
