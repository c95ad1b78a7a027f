"""Passkey retrieval: can a key hidden in filler be told at the end, by length of the text and depth of the key?"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from beacon_lit.data.passkey import STEM, passkey_sample
from beacon_lit.evaluation.frame import Frame
from beacon_lit.evaluation.plots import heat_maps, mean_by_cell, score_by_depth
from beacon_lit.evaluation.prompts import CHAT, PLAIN, Prompt, check_template
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.task import Example, ModeScores, Record, Score, Subject, Task, mean_score

# What an answer may have beyond the key's tokens; an assistant may say a sentence first.
_MORE_TOKENS = {PLAIN: 4, CHAT: 32}


@dataclass(frozen=True)
class Passkey(Task):
    """Share of keys that are told: the first number of the model's greedy answer is the key.

    The prompt ends right before the key: in plain text with the beginning of a sentence that tells it, in a chat with
    the question. `Score.details["length_L/depth_D"]` is the score of one
    cell, `Score.details["similarity"]` the mean share of digits that are right.

    Args:
        lengths: prompt tokens; take some on and some off the window's multiples, since a question that ends on a
            border is read from another window than the answer.
        depths: where the key is, in per cent of the filler.
        samples: keys per length and depth.
        seed: other seeds give other keys.
        template: "plain", "chat" or "auto" (a chat where the tokenizer has a template).

    Raises:
        ValueError: no lengths or depths, samples below 1, a depth outside 0..100; on evaluation, a length too short.
    """

    lengths: Sequence[int]
    depths: Sequence[float] = (0, 25, 50, 75, 100)
    samples: int = 1
    seed: int = 0
    template: str = PLAIN
    metric = "accuracy"

    def __post_init__(self) -> None:
        for name, values in (("lengths", self.lengths), ("depths", self.depths)):
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name}: got {list(values)}; needs at least one value, and each only once")
        if bad := [depth for depth in self.depths if not 0 <= depth <= 100]:
            raise ValueError(f"depths: got {bad}; must be between 0 and 100 (per cent)")
        if self.samples < 1:
            raise ValueError(f"samples: got {self.samples}; must be at least 1")
        check_template(self.template)

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        frame = Frame.of(subject.tokenizer, self.template, STEM)
        around: dict[str, Any] = {"prefix": frame.prefix, "head": frame.head, "stem": frame.ask}
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
                (frame.template, sample),
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
        after = f", {label}" if label else ""
        maps = {"by_depth_and_length": heat_maps(panels, f"Passkey accuracy{after}")}
        if len(self.depths) > 2:
            maps["by_depth"] = score_by_depth(panels, f"Passkey accuracy by depth{after}")
        return maps
