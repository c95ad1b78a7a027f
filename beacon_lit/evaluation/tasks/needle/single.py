"""Needle in a haystack: is one fact, hidden in long text, told when it is asked for, by length and depth?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from matplotlib.figure import Figure

from beacon_lit.evaluation.frame import Frame
from beacon_lit.evaluation.judge import NO_JUDGE, Judge
from beacon_lit.evaluation.metrics import rouge_l
from beacon_lit.evaluation.plots import heat_maps, mean_by_cell
from beacon_lit.evaluation.prompts import Prompt, check_template
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.task import Example, ModeScores, Record, Score, Subject, Task
from beacon_lit.evaluation.tasks.needle.facts import Fact, draw_facts
from beacon_lit.evaluation.tasks.needle.grading import (
    METRICS,
    check_cells,
    check_depths,
    check_metric,
    contains,
    first_line,
    summed_up,
)
from beacon_lit.evaluation.tasks.needle.haystack import TextFiles, read_haystack
from beacon_lit.evaluation.tasks.needle.prompt import hide


@dataclass(frozen=True)
class Needle(Task):
    """One needle per prompt, after Kamradt's test as the paper runs it (arXiv 2401.03462, section 4.3).

    Prompt: announcement, haystack with the needle, question; in a chat all of it is the user's. The first line of the
    greedy answer is graded: "score", 1 if it has the answer's words, else 0; "rouge", ROUGE-L's recall of the needle;
    and with a judge "judge", 1 to 10. Other than in the paper's code the depth counts the haystack's tokens alone, a
    needle stands where a sentence begins, files are sorted, and no bos token comes twice.

    Args:
        lengths: tokens of a prompt in all, special tokens and the chat template's included.
        depths: share of the haystack before the needle, in per cent.
        samples: prompts per length and depth. Each begins with another text of the haystack.
        seed: other seeds draw other needles.
        path: the haystack: a folder with *.txt in it, a file or a glob; None = the held-out documents.
        data_root: the folder that `long-llm:` in the path stands for.
        needle: the sentence to hide; None = one about a city and a thing to do there, drawn for each sample.
        question: for it; None where the needle is.
        answer: the words that an answer must have; None where the needle is.
        template: "auto", "chat" or "plain"; in plain text the answer follows "Answer:".
        max_new_tokens: the most tokens of an answer.
        metric: what `Score.value` is the mean of: "accuracy", "rouge" or "judge" (1 to 10).
        judge: grades answers, if it has a url.

    Raises:
        ValueError: a setting that is out of range, some but not all of needle, question and answer, a path where
            nothing is; on evaluation, a length too short.
    """

    lengths: Sequence[int]
    depths: Sequence[float] = (0, 25, 50, 75, 100)
    samples: int = 1
    seed: int = 0
    path: str | None = None
    data_root: str | None = None
    needle: str | None = None
    question: str | None = None
    answer: str | None = None
    template: str = "auto"
    max_new_tokens: int = 50
    metric: str = "accuracy"  # type: ignore[misc]  # a setting here
    judge: Judge = NO_JUDGE
    graded_by = ("metric", "judge")

    def __post_init__(self) -> None:
        check_cells(self.lengths, self.samples, self.max_new_tokens)
        check_depths(self.depths)
        check_template(self.template)
        check_metric(self.metric, self.judge.url is not None)
        given = {"needle": self.needle, "question": self.question, "answer": self.answer}
        if missing := [name for name, text in given.items() if not text]:
            if len(missing) < len(given):
                raise ValueError(
                    f"{', '.join(missing)}: must be given, too; needle, question and answer belong together"
                )
        elif not contains(str(self.needle), str(self.answer)):
            raise ValueError(f"answer={self.answer!r} is not allowed; allowed: words of the needle, {self.needle!r}")
        _ = self._files

    @property
    def _files(self) -> TextFiles | None:
        return None if self.path is None else TextFiles(self.path, self.data_root)

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        frame = Frame.of(subject.tokenizer, self.template)
        haystack = read_haystack(self._files, subject, max(self.lengths), self.samples)
        examples = []
        for length in self.lengths:
            for depth in self.depths:
                for index in range(self.samples):
                    fact = self._fact(f"{self.seed}/{length}/{float(depth)}/{index}")
                    made = hide(frame, haystack, index, length, [fact.statement], [depth], fact.question)
                    about = {"length": length, "depth": depth, "position": made.positions[0], **_told(fact)}
                    prompt = Prompt(made.ids, frame.template)
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
        said = first_line(record["prediction"])
        return {
            "score": float(contains(said, record["answer"])),
            "rouge": rouge_l(said, record["needle"]).recall,
            **self.judge.grade(record["question"], record["needle"], said),
        }

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        return summed_up(records, self.metric, by=("length", "depth"))

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task. One figure per metric that was graded, whichever is the score's value."""
        label, newest = list(runs.items())[-1]
        figures = {}
        for name, field in METRICS.items():
            panels = {mode: _cells(score.predictions, field) for mode, score in newest.items()}
            if any(panels.values()):
                title = f"Needle {name}, {label}" if label else f"Needle {name}"
                figures[f"{name}_by_depth_and_length"] = heat_maps(panels, title)
        return figures


def _told(fact: Fact) -> Record:
    return {"needle": fact.statement, "question": fact.question, "answer": fact.answer}


def _cells(records: Sequence[Record], field: str) -> Mapping[tuple[int, float], float]:
    """Means by length and depth in 0..1; a judge's of tenths."""
    graded = [record for record in records if record.get(field) is not None]
    unit = 10 if field == METRICS["judge"] else 1
    return {cell: value / unit for cell, value in mean_by_cell(graded, field).items()}
