"""The seam behind which every evaluation lives: a Task scores one subject under one mode, and draws its scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from matplotlib.figure import Figure
from transformers import PreTrainedTokenizerBase

from beacon_lit.evaluation.modes import Mode, Model

Document = tuple[str, Sequence[int]]  # id, token ids of the whole text
ModeScores = Mapping[str, "Score"]  # mode name -> score, in the order of the table's rows
Results = Mapping[str, ModeScores]  # task name -> its scores


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and on what.

    Args:
        lm: the model, in eval mode.
        tokenizer: its tokenizer.
        documents: held-out texts, for tasks that do not bring their own.
    """

    lm: Model
    tokenizer: PreTrainedTokenizerBase
    documents: Sequence[Document] = ()

    @property
    def prefix(self) -> list[int]:
        """What this tokenizer puts before every text: its bos token, or nothing."""
        start = self.tokenizer("")["input_ids"][:1]
        return list(start) if start and start[0] == self.tokenizer.bos_token_id else []


@dataclass(frozen=True)
class Score:
    """What a task found under one mode.

    Args:
        value: its one number, the one that tables show.
        details: further numbers by name, such as "window_3".
        predictions: one JSON-able record per example.
    """

    value: float
    details: Mapping[str, float] = field(default_factory=dict)
    predictions: Sequence[Mapping[str, Any]] = ()


class Task(Protocol):
    """An evaluation. Its settings are its constructor's; the name it goes by is its key in the config."""

    def evaluate(self, subject: Subject, mode: Mode) -> Score:
        """Score the subject under one mode; called without gradients."""
        ...

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """Figures by name. `runs` maps a label ("before training", or "" for a lone run) to its scores.

        The last run is the newest; the others may come without their predictions.
        """
        ...
