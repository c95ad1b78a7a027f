"""A task: what it asks a model, how it grades the answers, and what it makes of all grades."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from matplotlib.figure import Figure
from transformers import PreTrainedTokenizerBase

from beacon_lit.data.encoding import start_ids
from beacon_lit.evaluation.modes import Model
from beacon_lit.evaluation.requests import Answer, Request

Document = tuple[str, Sequence[int]]  # id, token ids of the whole text
Record = Mapping[str, Any]  # one graded answer, values as in JSON: a line of predictions.jsonl
ModeScores = Mapping[str, "Score"]  # mode name -> score, in the order of the rows of tables
Results = Mapping[str, ModeScores]  # task name -> its scores


@dataclass(frozen=True)
class Subject:
    """The model that is evaluated, its tokenizer, and texts to evaluate it on.

    Args:
        lm: the model.
        tokenizer: its tokenizer.
        read_documents: returns held-out texts, for tasks that bring no texts of their own; called at first use.
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
        """What the tokenizer puts before every text: usually its bos token, or nothing."""
        return start_ids(self.tokenizer)


@dataclass(frozen=True)
class Example:
    """One example of a task.

    Args:
        id: its name, unique within the task.
        about: fields of its record that are known beforehand, values as in JSON: reference answers, length, depth ...
        content: what `Task.request` and `Task.record` need; not in the record.
    """

    id: str
    about: Record = field(default_factory=dict)
    content: Any = None


@dataclass(frozen=True)
class Score:
    """The result of a task under one mode.

    Args:
        value: the number that tables show.
        details: further numbers by name, such as "window_3".
        costs: time, tokens and memory: see `costs.costs`.
        predictions: the records, one per example.
    """

    value: float
    details: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    predictions: Sequence[Record] = ()


class Task(ABC):
    """An evaluation. Its settings are the arguments of its constructor; its name is its key in the config.

    The runner calls `examples` once, `request` for each example to measure its length and again to ask it, `record` and
    `grade` with each answer, and `score` with all records of a mode. A task never sees the model at work or the mode.

    Attributes:
        metric: what `Score.value` is, as tables and figures call it.
        higher_is_better: whether a larger value is better.
        graded_by: settings that only `grade`, `score` and `figures` read; `rescore=` may change them.
    """

    metric: ClassVar[str] = "score"
    higher_is_better: ClassVar[bool] = True
    graded_by: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def examples(self, subject: Subject) -> Sequence[Example]:
        """List all examples in the order of the records, equal on every call and every rank."""

    @abstractmethod
    def request(self, subject: Subject, example: Example) -> Request:
        """Write what the model is asked about an example, equal on every call."""

    def record(self, example: Example, answer: Answer) -> Record:
        """Turn the answer to an example's request into fields of its record, values as in JSON."""
        return answer

    def grade(self, record: Record) -> Record:
        """Return further fields, such as "score", from a record: `Example.about`, and what `record` returned."""
        return {}

    @abstractmethod
    def score(self, records: Sequence[Record]) -> Score:
        """Sum up all records of one mode, from their fields alone."""

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """Draw figures, by name.

        Args:
            runs: label ("before training", or "" for a single run) -> scores. The last run is the newest; the others
                may come without their predictions.
        """
        return {}


def mean_score(records: Sequence[Record], name: str = "score", by: Sequence[str] = ()) -> Score:
    """Average a field over all records, and over groups of records as details.

    Args:
        records: at least one.
        name: the field.
        by: fields whose values make the groups: `by=("length", "depth")` gives "length_4096/depth_50".
    """
    groups: dict[str, list[float]] = {}
    for record in records if by else ():
        key = "/".join(f"{field}_{_short(record[field])}" for field in by)
        groups.setdefault(key, []).append(record[name])
    return Score(
        value=mean(record[name] for record in records),
        details={key: mean(values) for key, values in groups.items()},
    )


def mean(values: Iterable[float]) -> float:
    """Average numbers; NaN if empty."""
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
