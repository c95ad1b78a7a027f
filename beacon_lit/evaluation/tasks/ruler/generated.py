"""RULER's samples as others have generated them: what tasks for such samples share, and files of RULER's scripts."""

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from matplotlib.figure import Figure

from beacon_lit.data.sources.files import FileSource
from beacon_lit.evaluation.checks import check_limits
from beacon_lit.evaluation.plots import bars, titled
from beacon_lit.evaluation.prompts import PLAIN, check_template, make_prompt
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.rows import Row, read_rows
from beacon_lit.evaluation.task import Example, ModeScores, Record, Score, Subject, Task, mean, mean_score
from beacon_lit.evaluation.tasks.ruler.grading import NEW_TOKENS, contained, family

_CONTROL = re.compile(r"[\x00-\x1f]")


@dataclass(frozen=True)
class GeneratedRuler(Task):
    """Asks samples of RULER that are in files. A subclass says how rows become prompts.

    Args:
        path: where the files are.
        data_root: the folder that a leading `long-llm:` stands for.
        max_examples: maximum number of samples of each subset; None = all.
        template: "auto", "chat" or "plain": see `make_prompt`.

    Raises:
        ValueError: a setting out of range; on evaluation, a missing file or a malformed record.
    """

    path: str
    data_root: str | None = None
    max_examples: int | None = None
    template: str = PLAIN
    metric = "accuracy"
    control: ClassVar[str]  # what takes the place of a control character before an answer is graded

    def __post_init__(self) -> None:
        check_template(self.template)
        check_limits(max_examples=self.max_examples)

    @abstractmethod
    def rows(self) -> Iterator[tuple[str, str, Row]]:
        """Yield where a row is, its subset, and its fields, "answers" among them."""

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        examples: dict[str, list[Example]] = {}
        for where, subset, row in self.rows():
            about = {
                "subset": subset,
                "answers": _answers(where, row["answers"]),
                "any_answer": _kind(where, subset) == "qa",
            }
            of_subset = examples.setdefault(subset, [])
            if self.max_examples is None or len(of_subset) < self.max_examples:
                of_subset.append(Example(f"{subset}/{len(of_subset)}", about, row))
        return [example for of_subset in examples.values() for example in of_subset]

    def grade(self, record: Record) -> Record:
        """See Task."""
        said = _CONTROL.sub(self.control, record["prediction"].strip()).strip()
        return {"score": contained(said, record["answers"], record["any_answer"])}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        subsets = dict.fromkeys(record["subset"] for record in records)
        means = {name: mean_score([r for r in records if r["subset"] == name]).value for name in subsets}
        return Score(mean(means.values()), means)

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task."""
        label, newest = list(runs.items())[-1]
        percent = {mode: {name: 100 * x for name, x in score.details.items()} for mode, score in newest.items()}
        return {"by_subset": bars(percent, "accuracy (%)", titled("RULER", label))}


@dataclass(frozen=True)
class RulerFiles(GeneratedRuler):
    """Asks the samples that RULER's own scripts have written, in its wording, so that scores compare with its table.

    The score is the mean over subsets; `Score.details` has each subset. Prompts are those of the files, whatever
    template they were generated with. Older files lack `answer_prefix`: the beginning of the answer is part of `input`.

    Args:
        path: the folder with SUBSET/validation.jsonl; or such files, as a glob.

    See `GeneratedRuler` for the other settings; with template="chat" the beginning of the answer stands behind the chat
    template, for files that were generated with `--model_template_type base`.
    """

    control = "\n"

    def rows(self) -> Iterator[tuple[str, str, Row]]:
        """See GeneratedRuler."""
        for file in _Files(self.path, self.data_root).files:
            for where, row in read_rows(str(file), None, ("input", "outputs"), "", self.max_examples):
                yield where, file.parent.name, {**row, "answers": row["outputs"]}

    def request(self, subject: Subject, example: Example) -> Generate:
        """See Task."""
        kind, row = family(example.about["subset"]), example.content
        text, stem = (row["input"], row["answer_prefix"]) if "answer_prefix" in row else _split(row["input"], kind)
        if subject.prefix:  # of the two bos tokens of a template and a tokenizer, one is left
            text = text.removeprefix(subject.tokenizer.bos_token)
        return Generate(make_prompt(subject.tokenizer, text, self.template, answer=stem), NEW_TOKENS[kind])


@dataclass(frozen=True)
class _Files(FileSource):
    """Files of RULER: those in the folders of a folder, or the matches of a glob."""

    @property
    def files(self) -> list[Path]:
        """See `FileSource`."""
        found = super().files
        return [
            file for path in found for file in (sorted(path.glob("*/validation.jsonl")) if path.is_dir() else [path])
        ]

    @property
    def wanted(self) -> str:
        """See `FileSource`."""
        return (
            "a folder with SUBSET/validation.jsonl in it, as RULER's scripts/data/prepare.py writes it into --save_dir"
        )

    def accepts(self, file: Path) -> bool:
        """See `FileSource`."""
        return file.is_file() or any(file.glob("*/validation.jsonl"))


def _split(text: str, kind: str) -> tuple[str, str]:
    """Split a prompt before the beginning of its answer, as RULER's scripts find it."""
    before, opening, after = text.rpartition(" The special magic" if kind == "niah" else " Answer:")
    return (before, opening + after) if opening else (text, "")


def _kind(where: str, subset: str) -> str:
    try:
        return family(subset)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _answers(where: str, answers: Any) -> list[str]:
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"{where}: the reference answers must be a list of one or more strings, not {answers!r}")
    return answers
