"""What tasks of several needles in one text have in common: their settings, and texts with facts drawn from a seed."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from matplotlib.figure import Figure

from beacon_lit.evaluation.frame import Frame
from beacon_lit.evaluation.judge import NO_JUDGE, Judge
from beacon_lit.evaluation.plots import score_by_mode
from beacon_lit.evaluation.prompts import check_template
from beacon_lit.evaluation.task import Example, ModeScores, Subject, Task
from beacon_lit.evaluation.tasks.needle.facts import MOST_FACTS, Fact, draw_facts
from beacon_lit.evaluation.tasks.needle.grading import check_cells, check_metric
from beacon_lit.evaluation.tasks.needle.haystack import Haystack, TextFiles, read_haystack
from beacon_lit.evaluation.tasks.needle.prompt import hide


@dataclass(frozen=True)
class DrawnNeedles(Task):
    """Several facts in one text, each about another city and in another of as many equal parts of the haystack; they
    are asked for in an order that is drawn, too.

    Args:
        lengths: tokens of the (first) prompt in all, special tokens and the chat template's included.
        needles: facts per text.
        samples: texts per length. Each begins with another text of the haystack.
        seed: other seeds draw other facts, places and orders.
        path: the haystack: a folder with *.txt in it, a file or a glob; None = the held-out documents.
        data_root: the folder that `long-llm:` in the path stands for.
        template: "auto", "chat" or "plain"; in plain text an answer follows "Answer:".
        max_new_tokens: the most tokens of an answer.
        metric: what `Score.value` is the mean of: "accuracy", "rouge" or "judge" (1 to 10).
        judge: grades answers, if it has a url.

    Raises:
        ValueError: a setting that is out of range, a path where nothing is; on evaluation, a length too short.
    """

    lengths: Sequence[int]
    needles: int = 3
    samples: int = 1
    seed: int = 0
    path: str | None = None
    data_root: str | None = None
    template: str = "auto"
    max_new_tokens: int = 50
    metric: str = "accuracy"  # type: ignore[misc]  # a setting here
    judge: Judge = NO_JUDGE
    graded_by = ("metric", "judge")

    def __post_init__(self) -> None:
        check_cells(self.lengths, self.samples, self.max_new_tokens)
        check_template(self.template)
        check_metric(self.metric, self.judge.url is not None)
        if not 2 <= self.needles <= MOST_FACTS:
            raise ValueError(f"needles: got {self.needles}; must be between 2 and {MOST_FACTS}")
        _ = self._files

    @property
    def _files(self) -> TextFiles | None:
        return None if self.path is None else TextFiles(self.path, self.data_root)

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        frame = Frame.of(subject.tokenizer, self.template)
        haystack = read_haystack(self._files, subject, max(self.lengths), self.samples)
        return [
            self._example(frame, haystack, length, index) for length in self.lengths for index in range(self.samples)
        ]

    def _example(self, frame: Frame, haystack: Haystack, length: int, index: int) -> Example:
        rng = Random(f"needles/{self.seed}/{length}/{index}")
        facts = draw_facts(rng, self.needles)
        part = 100 / self.needles
        depths = [round(part * (i + rng.random()), 1) for i in range(self.needles)]
        rng.shuffle(depths)
        statements = [fact.statement for fact in facts]
        first = self._questions(facts)[0]
        hidden = hide(frame, haystack, index, length, statements, depths, first)
        about = {
            "length": length,
            "depths": depths,
            "positions": hidden.positions,
            "needles": statements,
            "questions": self._questions(facts),
            "answers": [fact.answer for fact in facts],
        }
        turns = [hidden.ids, *(frame.next_question(question) for question in self._questions(facts)[1:])]
        return Example(f"{length}/{index}", about, (frame.template, turns))

    @abstractmethod
    def _questions(self, facts: Sequence[Fact]) -> list[str]:
        """What is asked, a turn each."""

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task."""
        return {"by_ratio": score_by_mode(runs, self.metric)}


def mean(values: Sequence[float]) -> float:
    """nan of none."""
    return sum(values) / len(values) if values else float("nan")


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them."""
    return f"{', '.join(names[:-1])} and {names[-1]}"
