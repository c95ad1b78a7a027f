"""Quotes: is the sentence after a given one repeated word for word, by length of the text and depth?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from matplotlib.figure import Figure

from beacon_lit.data.encoding import token_ids
from beacon_lit.data.retrieval import made_up
from beacon_lit.evaluation.checks import check_at_least, check_depths, check_distinct
from beacon_lit.evaluation.plots import heat_maps, mean_by_cell, score_by_mode, titled
from beacon_lit.evaluation.prompts import AUTO, Prompt, check_template
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.task import Example, ModeScores, Record, Score, Subject, Task, mean_score
from beacon_lit.evaluation.tasks.needle.haystack import Haystack
from beacon_lit.evaluation.tasks.needle.hiding import hide
from beacon_lit.evaluation.turn_markup import TurnMarkup

_QUESTION = "Repeat a part of the text above word for word."
_TOKENS = 4  # a sentence has more


@dataclass(frozen=True)
class Quote(Task):
    """Scores the share of answers that contain the sentence after a given one, word for word.

    The text consists of made-up sentences, of which no two are equal. The answer begins with the given sentence, behind
    the template, and the model continues. This measures how faithfully memory keeps the words of a place. Our own task.

    `Score.details` has "similarity", the mean edit similarity of the sentence and the beginning of the answer, and the
    score of each cell ("length_L/depth_D").

    Args:
        lengths: tokens of a prompt, the chat template's included.
        depths: where the two sentences are, in per cent of the text.
        samples: prompts per length and depth.
        seed: changes the sentences.
        template: "auto", "chat" or "plain".
        max_new_tokens: maximum number of tokens of an answer.

    Raises:
        ValueError: a setting out of range; on evaluation, a length that is too short.
    """

    lengths: Sequence[int]
    depths: Sequence[float] = (0, 25, 50, 75, 100)
    samples: int = 1
    seed: int = 0
    template: str = AUTO
    max_new_tokens: int = 64
    metric = "exact quotes"

    def __post_init__(self) -> None:
        check_distinct(1, lengths=self.lengths)
        check_depths(self.depths)
        check_at_least(1, samples=self.samples, max_new_tokens=self.max_new_tokens)
        check_template(self.template)

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        markup = TurnMarkup.of(subject.tokenizer, self.template, stem=" ")
        return [
            self._example(markup, length, depth, index)
            for length in self.lengths
            for depth in self.depths
            for index in range(self.samples)
        ]

    def _example(self, markup: TurnMarkup, length: int, depth: float, index: int) -> Example:
        rng = Random(f"quote/{self.seed}/{length}/{float(depth)}/{index}")
        given, answer, *others = dict.fromkeys(made_up.sentence(rng) for _ in range(3 + length // _TOKENS))
        haystack = Haystack([token_ids(markup.tokenizer, " ".join(others))])
        asking = replace(markup, ask=markup.ask + given)
        hidden = hide(asking, haystack, 0, length, [f" {given} {answer}"], [depth], _QUESTION)
        about = {"length": length, "depth": depth, "position": hidden.positions[0], "given": given, "answer": answer}
        return Example(f"{length}/{depth:g}/{index}", about, Prompt(hidden.ids, markup.template))

    def request(self, subject: Subject, example: Example) -> Generate:
        """See Task."""
        return Generate(example.content, self.max_new_tokens)

    def grade(self, record: Record) -> Record:
        """See Task."""
        said, answer = " ".join(record["prediction"].split()), record["answer"]
        return {"score": float(answer in said), "similarity": edit_similarity(said[: len(answer)], answer)}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        score = mean_score(records, by=("length", "depth"))
        return Score(score.value, {"similarity": mean_score(records, "similarity").value, **score.details})

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task."""
        label, newest = list(runs.items())[-1]
        panels = {mode: mean_by_cell(score.predictions, "similarity") for mode, score in newest.items()}
        maps = heat_maps(panels, titled("Similarity of quotes", label))
        return {"by_ratio": score_by_mode(runs, self.metric), "similarity_by_depth_and_length": maps}


def edit_similarity(text: str, reference: str) -> float:
    """Return 1 - (edit distance of characters) / (length of the longer text); 1 if both are empty."""
    distances = list(range(len(reference) + 1))
    for i, letter in enumerate(text, 1):
        before, distances = distances, [i]
        for j, other in enumerate(reference):
            distances.append(min(before[j] + (letter != other), before[j + 1] + 1, distances[j] + 1))
    return 1 - distances[-1] / max(len(text), len(reference), 1)
