"""Passkey retrieval: is a key that is hidden in filler retrieved, by length of the text and depth of the key?"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from beacon_lit.data.retrieval.passkey import STEM, passkey_sample
from beacon_lit.evaluation.checks import check_at_least, check_depths, check_distinct
from beacon_lit.evaluation.plots import heat_maps, mean_by_cell, score_by_depth, titled
from beacon_lit.evaluation.prompts import CHAT, PLAIN, Prompt, check_template
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.task import Example, ModeScores, Record, Score, Subject, Task, mean_score
from beacon_lit.evaluation.turn_markup import TurnMarkup

# Tokens of an answer beyond the key's own; an assistant may say a sentence first.
_MORE_TOKENS = {PLAIN: 4, CHAT: 32}


@dataclass(frozen=True)
class Passkey(Task):
    """Scores the share of keys that are retrieved: the first number of the model's greedy answer is the key.

    The prompt ends right before the key: in plain text with the beginning of a sentence that names it, in a chat with
    the question. `Score.details["length_L/depth_D"]` is the score of one cell, `Score.details["similarity"]` the mean
    share of digits that are right.

    Args:
        lengths: tokens of the prompt. Choose some that are multiples of the window and some that are not, since a
            question that ends on a window border is read from another window than the answer.
        depths: where the key is, in per cent of the filler.
        samples: keys per length and depth.
        seed: changes the keys.
        template: "plain", "chat" or "auto" (a chat if the tokenizer has a chat template).

    Raises:
        ValueError: a setting out of range; on evaluation, a length that is too short.
    """

    lengths: Sequence[int]
    depths: Sequence[float] = (0, 25, 50, 75, 100)
    samples: int = 1
    seed: int = 0
    template: str = PLAIN
    metric = "accuracy"

    def __post_init__(self) -> None:
        check_distinct(lengths=self.lengths)
        check_depths(self.depths)
        check_at_least(1, samples=self.samples)
        check_template(self.template)

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        markup = TurnMarkup.of(subject.tokenizer, self.template, STEM)
        around: dict[str, Any] = {"prefix": markup.prefix, "head": markup.head, "stem": markup.ask}
        made = [
            (index, passkey_sample(subject.tokenizer, length, depth, seed=self.seed, index=index, **around))
            for length in self.lengths
            for depth in self.depths
            for index in range(self.samples)
        ]
        return [
            Example(
                f"{sample.length}/{sample.depth:g}/{index}",
                {"length": sample.length, "depth": sample.depth, "position": sample.position, "key": sample.key},
                (markup.template, sample),
            )
            for index, sample in made
        ]

    def request(self, subject: Subject, example: Example) -> Generate:
        """See Task."""
        template, sample = example.content
        return Generate(Prompt(sample.ids[: sample.length], template), len(sample.answer) + _MORE_TOKENS[template])

    def grade(self, record: Record) -> Record:
        """See Task."""
        guess = next(iter(re.findall(r"\d+", record["prediction"])), "")
        right = sum(said == digit for said, digit in zip(guess, record["key"], strict=False))
        return {"guess": guess, "score": float(guess == record["key"]), "similarity": right / len(record["key"])}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        score = mean_score(records, by=("length", "depth"))
        similarity = mean_score(records, "similarity").value
        return Score(score.value, {"similarity": similarity, **score.details})

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task."""
        label, newest = list(runs.items())[-1]
        panels = {name: mean_by_cell(score.predictions) for name, score in newest.items()}
        figures = {"by_depth_and_length": heat_maps(panels, titled("Passkey accuracy", label))}
        if len(self.depths) > 2:
            figures["by_depth"] = score_by_depth(panels, titled("Passkey accuracy by depth", label))
        return figures
