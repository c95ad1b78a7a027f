"""Settings and methods that all needle tasks share."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from random import Random

from matplotlib.figure import Figure

from beacon_lit.evaluation.checks import check_at_least, check_distinct
from beacon_lit.evaluation.judge import NO_JUDGE, Judge
from beacon_lit.evaluation.metrics import rouge_l
from beacon_lit.evaluation.plots import score_by_mode
from beacon_lit.evaluation.prompts import AUTO, check_template
from beacon_lit.evaluation.task import Example, ModeScores, Record, Subject, Task
from beacon_lit.evaluation.tasks.needle.facts import CUE, MOST_FACTS, Fact, draw_facts, paragraph
from beacon_lit.evaluation.tasks.needle.grading import check_metric, contains, first_line
from beacon_lit.evaluation.tasks.needle.haystack import Haystack, TextFiles, in_published_layout, read_haystack
from beacon_lit.evaluation.tasks.needle.hiding import hide
from beacon_lit.evaluation.turn_markup import TurnMarkup


@dataclass(frozen=True)
class NeedleTask(Task):
    """Hides needles in a haystack and asks about them.

    Args:
        lengths: tokens of the (first) prompt in all, special tokens and the chat template's included.
        samples: texts per length (and depth). Each begins with another text of the haystack.
        seed: changes the needles, and their places and order if these are drawn.
        path: the haystack: a folder with *.txt, a file or a glob; None = the held-out documents.
        data_root: the folder that `long-llm:` in the path stands for; its folder `needle` is searched as well.
        template: "auto", "chat" or "plain". A question ends with a line "Answer:", in a chat within the user's turn.
        max_new_tokens: maximum number of tokens of an answer.
        metric: what `Score.value` is the mean of: "accuracy", "rouge" or "judge" (1 to 10).
        judge: grades answers if it has a url.

    Raises:
        ValueError: a setting out of range, or a missing path; on evaluation, a length that is too short.
    """

    lengths: Sequence[int]
    _: KW_ONLY
    samples: int = 1
    seed: int = 0
    path: str | None = None
    data_root: str | None = None
    template: str = AUTO
    max_new_tokens: int = 50
    metric: str = "accuracy"  # type: ignore[misc]  # a setting here
    judge: Judge = NO_JUDGE
    graded_by = ("metric", "judge")

    def __post_init__(self) -> None:
        check_distinct(1, lengths=self.lengths)
        check_at_least(1, samples=self.samples, max_new_tokens=self.max_new_tokens)
        check_template(self.template)
        check_metric(self.metric, self.judge.url is not None)
        self._files()

    def _files(self) -> TextFiles | None:
        """Find the files of the haystack. Raises ValueError if there are none."""
        if self.path is None:
            return None
        return TextFiles(in_published_layout(self.path, self.data_root), self.data_root)

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        markup = TurnMarkup.of(subject.tokenizer, self.template)
        markup = replace(markup, ask=CUE + markup.ask)
        haystack = read_haystack(self._files(), subject, max(self.lengths), self.samples)
        return [example for length in self.lengths for example in self._of_length(length, markup, haystack)]

    @abstractmethod
    def _of_length(self, length: int, markup: TurnMarkup, haystack: Haystack) -> list[Example]:
        """Make the examples of one length."""

    def _grade(self, prediction: str, question: str, needle: str, answer: str) -> Record:
        """Grade the first line of an answer about one needle."""
        said = first_line(prediction)
        return {
            "score": float(contains(said, answer)),
            "rouge": rouge_l(said, needle).recall,
            **self.judge.grade(question, needle, said),
        }


@dataclass(frozen=True)
class SeveralNeedles(NeedleTask):
    """Hides several facts in one text, each about another city and in another of as many equal parts of the haystack.

    The order of the questions is drawn. See `NeedleTask` for further settings.

    Args:
        needles: facts per text.
    """

    needles: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.needles <= MOST_FACTS:
            raise ValueError(f"needles={self.needles} is not allowed; allowed: between 2 and {MOST_FACTS}")

    def _of_length(self, length: int, markup: TurnMarkup, haystack: Haystack) -> list[Example]:
        return [self._example(length, index, markup, haystack) for index in range(self.samples)]

    def _example(self, length: int, index: int, markup: TurnMarkup, haystack: Haystack) -> Example:
        rng = Random(f"needles/{self.seed}/{length}/{index}")
        facts = draw_facts(rng, self.needles)
        part = 100 / self.needles
        depths = [round(part * (i + rng.random()), 1) for i in range(self.needles)]
        rng.shuffle(depths)
        statements, questions = [fact.statement for fact in facts], self._questions(facts)
        hidden = hide(markup, haystack, index, length, [*map(paragraph, statements)], depths, questions[0])
        about = {
            "length": length,
            "depths": depths,
            "positions": hidden.positions,
            "needles": statements,
            "questions": questions,
            "answers": [fact.answer for fact in facts],
        }
        turns = [hidden.ids, *(markup.next_question(question) for question in questions[1:])]
        return Example(f"{length}/{index}", about, (markup.template, turns))

    @abstractmethod
    def _questions(self, facts: Sequence[Fact]) -> list[str]:
        """Word the questions, one per turn."""

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task."""
        return {"by_ratio": score_by_mode(runs, self.metric)}
