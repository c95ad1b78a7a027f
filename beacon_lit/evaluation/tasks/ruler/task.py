"""RULER: needles, variables, words to count and questions among documents, at any length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from matplotlib.figure import Figure

from beacon_lit.evaluation.plots import bars, score_by_mode
from beacon_lit.evaluation.prompts import CHAT, Prompt, check_template, choose_template, make_prompt
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.task import Example, ModeScores, Record, Score, Subject, Task, mean_score
from beacon_lit.evaluation.tasks.ruler.essays import MADE_UP
from beacon_lit.evaluation.tasks.ruler.fitting import largest
from beacon_lit.evaluation.tasks.ruler.item import Subset
from beacon_lit.evaluation.tasks.ruler.subsets import SUBSETS, Material


@dataclass(frozen=True)
class Sample:
    """What makes a sample again, so that no prompt need be kept."""

    subset: Subset
    seed: str
    size: int

    def prompt(self, tokenizer: Any, template: str) -> Prompt:
        """What is asked: the answer's stem stands behind the template."""
        item = self.subset.make(Random(self.seed), self.size)
        stem = item.stem if choose_template(tokenizer, template) == CHAT else f" {item.stem}"
        return make_prompt(tokenizer, item.text, template, answer=stem)

    @property
    def answers(self) -> list[str]:
        """What the answer is to say."""
        return list(self.subset.make(Random(self.seed), self.size).answers)


@dataclass(frozen=True)
class Ruler(Task):
    """The 13 tasks of RULER (arXiv 2404.06654), in our own words and made anew from a seed.

    Prompts are as long as a length allows, room for the answer included. An answer counts where it is said anywhere, in
    capitals or not; the score is the share of a sample's answers that are said, and of the questions (qa_1, qa_2)
    whether one of them is. The value is the mean over subsets and lengths; `Score.details` has "SUBSET/length_L" and,
    where there are several lengths, "length_L".

    Args:
        lengths: tokens of prompt and answer together.
        samples: of each subset and length.
        subsets: which; None = all 13.
        seed: other seeds give other samples.
        template: "auto", "chat" or "plain": see `make_prompt`. The stem of the answer comes behind it.
        essays: what needles are hidden in (but for those in noise or in needles): "made-up" sentences, the "documents"
            that are held out, or files of text: see `essays.read_sentences`.
        squad, hotpotqa: files of the two, for qa_1 and qa_2; None = made-up questions about made-up people.
        data_root: the folder that `long-llm:` in `essays` stands for.

    Raises:
        ValueError: a setting that is out of range; on evaluation, files that are not there, a length too short.
    """

    lengths: Sequence[int]
    samples: int = 10
    subsets: Sequence[str] | None = None
    seed: int = 0
    template: str = "auto"
    essays: str = MADE_UP
    squad: str | None = None
    hotpotqa: str | None = None
    data_root: str | None = None
    metric = "accuracy"

    def __post_init__(self) -> None:
        for name, values in (("lengths", self.lengths), ("subsets", self.chosen)):
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name}: got {list(values)}; needs at least one value, and each only once")
        if unknown := [name for name in self.chosen if name not in SUBSETS]:
            raise ValueError(f"subsets: got {unknown}; allowed: {', '.join(SUBSETS)}")
        if self.samples < 1:
            raise ValueError(f"samples: got {self.samples}; must be at least 1")
        check_template(self.template)

    @property
    def chosen(self) -> Sequence[str]:
        """The subsets to evaluate."""
        return list(SUBSETS) if self.subsets is None else self.subsets

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        material = Material.read(self.essays, self.squad, self.hotpotqa, subject, self.data_root, self.seed)
        made = {(name, length): SUBSETS[name](length, material) for length in self.lengths for name in self.chosen}
        return [
            self._example(subject, name, length, index, subset)
            for (name, length), subset in made.items()
            for index in range(self.samples)
        ]

    def _example(self, subject: Subject, name: str, length: int, index: int, subset: Subset) -> Example:
        id = f"{name}/{length}/{index}"
        sample = partial(Sample, subset, f"ruler/{self.seed}/{id}")

        def tokens(size: int) -> int:
            return len(sample(size).prompt(subject.tokenizer, self.template).ids) + subset.new_tokens

        try:
            size = largest(tokens, subset.least, length)
        except ValueError as error:
            raise ValueError(f"lengths: got {length}; a prompt of {name} has {error}") from error
        about = {"subset": name, "length": length, "source": subset.source, "any_answer": subset.any_answer}
        return Example(id, {**about, "answers": sample(size).answers}, sample(size))

    def request(self, subject: Subject, example: Example) -> Generate:
        """See Task."""
        sample: Sample = example.content
        return Generate(sample.prompt(subject.tokenizer, self.template), sample.subset.new_tokens)

    def grade(self, record: Record) -> Record:
        """See Task."""
        said = [answer.lower() in record["prediction"].lower() for answer in record["answers"]]
        return {"score": float(any(said)) if record["any_answer"] else sum(said) / len(said)}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        cells = {
            f"{name}/length_{length}": mean_score(of_cell).value
            for length in dict.fromkeys(record["length"] for record in records)
            for name in SUBSETS
            if (of_cell := [record for record in records if (record["subset"], record["length"]) == (name, length)])
        }
        by_length = _means(cells, 1)
        return Score(sum(cells.values()) / len(cells), {**(by_length if len(by_length) > 1 else {}), **cells})

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task."""
        label, newest = list(runs.items())[-1]
        means = {mode: _means(score.details, 0) for mode, score in newest.items()}
        percent = {mode: {name: 100 * value for name, value in values.items()} for mode, values in means.items()}
        title = f"RULER, {label}" if label else "RULER"
        return {"by_ratio": score_by_mode(runs, self.metric), "by_subset": bars(percent, "accuracy (%)", title)}


def _means(details: Mapping[str, float], part: int) -> dict[str, float]:
    """Means of the cells ("SUBSET/length_L") of a subset (part 0) or a length (part 1)."""
    groups: dict[str, list[float]] = {}
    for cell, value in details.items():
        if "/" in cell:
            groups.setdefault(cell.split("/")[part], []).append(value)
    return {name: sum(values) / len(values) for name, values in groups.items()}
