"""RULER: needles, variables, word counts, and questions about documents, at any length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from matplotlib.figure import Figure

from beacon_lit.evaluation.checks import check_at_least, check_distinct, check_names
from beacon_lit.evaluation.plots import bars, score_by_mode, titled
from beacon_lit.evaluation.prompts import CHAT, Prompt, check_template, choose_template, make_prompt
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.task import Example, ModeScores, Record, Score, Subject, Task, mean, mean_score
from beacon_lit.evaluation.tasks.ruler.essays import MADE_UP
from beacon_lit.evaluation.tasks.ruler.fitting import largest
from beacon_lit.evaluation.tasks.ruler.grading import contained
from beacon_lit.evaluation.tasks.ruler.sample import RulerSubset
from beacon_lit.evaluation.tasks.ruler.subsets import SUBSETS, Material


@dataclass(frozen=True)
class SampleRecipe:
    """What a sample is made from, so that no prompt need be kept in memory.

    Attributes:
        subset: its subset.
        seed: seed of its random state.
        size: its size: see `sample.Make`.
    """

    subset: RulerSubset
    seed: str
    size: int

    def prompt(self, tokenizer: Any, template: str) -> Prompt:
        """Write the prompt, with the stem of the answer behind the template."""
        sample = self.subset.make(Random(self.seed), self.size)
        stem = sample.stem if choose_template(tokenizer, template) == CHAT else f" {sample.stem}"
        return make_prompt(tokenizer, sample.text, template, answer=stem)

    @property
    def answers(self) -> list[str]:
        """The reference answers."""
        return list(self.subset.make(Random(self.seed), self.size).answers)


@dataclass(frozen=True)
class Ruler(Task):
    """Asks the 13 tasks of RULER (arXiv 2404.06654), in our own words and made from a seed.

    Prompts are as long as a length allows, room for the answer included. A reference answer counts if the answer of the
    model contains it, ignoring case. The score is the share of a sample's reference answers that count; for questions
    (qa_1, qa_2) it is 1 if any of them counts. The value is the mean over subsets and lengths; `Score.details` has
    "SUBSET/length_L" and, with several lengths, "length_L".

    Args:
        lengths: tokens of prompt and answer together.
        samples: samples of each subset and length.
        subsets: names of subsets; None = all 13.
        seed: changes the samples.
        template: "auto", "chat" or "plain": see `make_prompt`. The stem of the answer stands behind it.
        essays: what needles are hidden in, except for those in noise or among other needles: "made-up" sentences, the
            held-out "documents", or files of text: see `essays.read_sentences`.
        squad, hotpotqa: files of SQuAD and HotpotQA for qa_1 and qa_2; None = made-up questions about made-up people.
        data_root: the folder that `long-llm:` in `essays` stands for.

    Raises:
        ValueError: a setting out of range; on evaluation, a missing file, or a length that is too short.
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
        check_distinct(lengths=self.lengths, subsets=self.chosen)
        check_names(tuple(SUBSETS), subsets=self.chosen)
        check_at_least(1, samples=self.samples)
        check_template(self.template)

    @property
    def chosen(self) -> Sequence[str]:
        """Names of the subsets to evaluate."""
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

    def _example(self, subject: Subject, name: str, length: int, index: int, subset: RulerSubset) -> Example:
        id = f"{name}/{length}/{index}"
        recipe = partial(SampleRecipe, subset, f"ruler/{self.seed}/{id}")

        def tokens(size: int) -> int:
            return len(recipe(size).prompt(subject.tokenizer, self.template).ids) + subset.new_tokens

        try:
            size = largest(tokens, subset.least, length)
        except ValueError as error:
            raise ValueError(f"lengths={length} is not allowed for {name}; {error}") from error
        about = {"subset": name, "length": length, "source": subset.source, "any_answer": subset.any_answer}
        return Example(id, {**about, "answers": recipe(size).answers}, recipe(size))

    def request(self, subject: Subject, example: Example) -> Generate:
        """See Task."""
        recipe: SampleRecipe = example.content
        return Generate(recipe.prompt(subject.tokenizer, self.template), recipe.subset.new_tokens)

    def grade(self, record: Record) -> Record:
        """See Task."""
        return {"score": contained(record["prediction"], record["answers"], record["any_answer"])}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        cells = {
            f"{name}/length_{length}": mean_score(of_cell).value
            for length in dict.fromkeys(record["length"] for record in records)
            for name in SUBSETS
            if (of_cell := [record for record in records if (record["subset"], record["length"]) == (name, length)])
        }
        by_length = _means(cells, 1)
        return Score(mean(cells.values()), {**(by_length if len(by_length) > 1 else {}), **cells})

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task."""
        label, newest = list(runs.items())[-1]
        means = {mode: _means(score.details, 0) for mode, score in newest.items()}
        percent = {mode: {name: 100 * value for name, value in values.items()} for mode, values in means.items()}
        by_subset = bars(percent, "accuracy (%)", titled("RULER", label))
        return {"by_ratio": score_by_mode(runs, self.metric), "by_subset": by_subset}


def _means(details: Mapping[str, float], part: int) -> dict[str, float]:
    """Average the cells "SUBSET/length_L" by subset (part 0) or by length (part 1)."""
    groups: dict[str, list[float]] = {}
    for cell, value in details.items():
        if "/" in cell:
            groups.setdefault(cell.split("/")[part], []).append(value)
    return {name: mean(values) for name, values in groups.items()}
