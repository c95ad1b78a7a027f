"""One needle in a haystack: is a fact in long text retrieved, by length of the text and depth of the fact?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from matplotlib.figure import Figure

from beacon_lit.evaluation.checks import check_depths
from beacon_lit.evaluation.plots import heat_maps, mean_by_cell, titled
from beacon_lit.evaluation.prompts import Prompt
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.task import Example, ModeScores, Record, Score, Subject
from beacon_lit.evaluation.tasks.needle.base import NeedleTask
from beacon_lit.evaluation.tasks.needle.facts import Fact, draw_facts, paragraph
from beacon_lit.evaluation.tasks.needle.grading import METRICS, contains, summed_up
from beacon_lit.evaluation.tasks.needle.haystack import Haystack
from beacon_lit.evaluation.tasks.needle.hiding import hide
from beacon_lit.evaluation.turn_markup import TurnMarkup


@dataclass(frozen=True)
class Needle(NeedleTask):
    """Asks for one needle per prompt: Kamradt's test, as the paper runs it (arXiv 2401.03462, section 4.3).

    The prompt is an announcement, the haystack with the needle as a paragraph of its own, the question, and a line
    "Answer:"; in a chat all of it is the user's turn. The first line of the greedy answer is graded: "score" is 1 if it
    has the words of the answer, else 0; "rouge" is the recall of ROUGE-L against the needle; and with a judge "judge"
    is a grade from 1 to 10. Unlike in the paper's code, the depth counts the tokens of the haystack alone, a needle
    stands where a sentence begins, files are sorted, and there is no second bos token.

    Args:
        depths: where the needle is, in per cent of the haystack.
        needle: the sentence to hide; None = a sentence about a city and a thing to do there, drawn for each sample.
        question: the question about your own needle.
        answer: words of your own needle that an answer must have.

    See `NeedleTask` for the other settings.

    Raises:
        ValueError: as `NeedleTask`; or some but not all of needle, question and answer.
    """

    depths: Sequence[float] = (0, 25, 50, 75, 100)
    needle: str | None = None
    question: str | None = None
    answer: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_depths(self.depths)
        given = {"needle": self.needle, "question": self.question, "answer": self.answer}
        missing = [name for name, text in given.items() if not text]
        if 0 < len(missing) < len(given):
            raise ValueError(f"{', '.join(missing)} is missing; allowed: all of needle, question and answer, or none")
        if not missing and not contains(str(self.needle), str(self.answer)):
            raise ValueError(f"answer={self.answer!r} is not allowed; allowed: words of the needle, {self.needle!r}")

    def _of_length(self, length: int, markup: TurnMarkup, haystack: Haystack) -> list[Example]:
        examples = []
        for depth in self.depths:
            for index in range(self.samples):
                fact = self._fact(f"{self.seed}/{length}/{float(depth)}/{index}")
                hidden = hide(markup, haystack, index, length, [paragraph(fact.statement)], [depth], fact.question)
                about = {
                    "length": length,
                    "depth": depth,
                    "position": hidden.positions[0],
                    "needle": fact.statement,
                    "question": fact.question,
                    "answer": fact.answer,
                }
                prompt = Prompt(hidden.ids, markup.template)
                examples.append(Example(f"{length}/{depth:g}/{index}", about, prompt))
        return examples

    def _fact(self, seed: str) -> Fact:
        if self.needle is None:
            return draw_facts(Random(f"needle/{seed}"), 1)[0]
        return Fact(self.needle, "", str(self.question), str(self.answer))

    def request(self, subject: Subject, example: Example) -> Generate:
        """See Task."""
        return Generate(example.content, self.max_new_tokens)

    def grade(self, record: Record) -> Record:
        """See Task."""
        return self._grade(record["prediction"], record["question"], record["needle"], record["answer"])

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        return summed_up(records, self.metric, by=("length", "depth"))

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task. There is a figure for each metric that was graded, whichever is `metric`."""
        label, newest = list(runs.items())[-1]
        figures = {}
        for name, field in METRICS.items():
            panels = {mode: _cells(score.predictions, field) for mode, score in newest.items()}
            if any(panels.values()):
                figures[f"{name}_by_depth_and_length"] = heat_maps(panels, titled(f"Needle {name}", label))
        return figures


def _cells(records: Sequence[Record], field: str) -> Mapping[tuple[int, float], float]:
    """Average a field by length and depth, scaled to 0..1."""
    graded = [record for record in records if record.get(field) is not None]
    unit = 10 if field == METRICS["judge"] else 1
    return {cell: value / unit for cell, value in mean_by_cell(graded, field).items()}
