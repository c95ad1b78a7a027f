"""Passkey retrieval: can a key hidden in filler be told at the end, by length of the text and depth of the key?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from matplotlib.figure import Figure

from beacon_lit.data.passkey import PasskeySample, passkey_sample
from beacon_lit.evaluation.modes import Mode
from beacon_lit.evaluation.plots import heat_maps
from beacon_lit.evaluation.task import ModeScores, Score, Subject


@dataclass(frozen=True)
class Passkey:
    """Share of keys that are told completely.

    A key counts when each of its tokens is the most likely next token in one teacher-forced pass over prompt and key,
    which is what greedy decoding would need to write it. `Score.details["token_accuracy"]` is the share of single
    answer tokens that are; `details["length_L/depth_D"]` is the score of one cell.

    Args:
        lengths: prompt tokens; take some on and some off the window's multiples, since a question that ends on a
            border is read from another window than the answer.
        depths: where the key is, in per cent of the filler.
        samples: keys per length and depth.
        seed: other seeds give other keys.

    Raises:
        ValueError: no lengths or depths, samples below 1, a depth outside 0..100; on evaluation, a length too short.
    """

    lengths: Sequence[int]
    depths: Sequence[float] = (0, 25, 50, 75, 100)
    samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values in (("lengths", self.lengths), ("depths", self.depths)):
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name}: got {list(values)}; needs at least one value, and each only once")
        if bad := [depth for depth in self.depths if not 0 <= depth <= 100]:
            raise ValueError(f"depths: got {bad}; must be between 0 and 100 (per cent)")
        if self.samples < 1:
            raise ValueError(f"samples: got {self.samples}; must be at least 1")

    def evaluate(self, subject: Subject, mode: Mode) -> Score:
        """See Task."""
        prefix = subject.prefix
        predictions = [
            _answer(
                subject,
                mode,
                passkey_sample(subject.tokenizer, length, depth, seed=self.seed, index=index, prefix=prefix),
            )
            for length in self.lengths
            for depth in self.depths
            for index in range(self.samples)
        ]
        right, tokens = (sum(record[name] for record in predictions) for name in ("tokens_right", "tokens"))
        cells = {
            f"length_{length}/depth_{depth:g}": accuracy for (length, depth), accuracy in _cells(predictions).items()
        }
        return Score(
            value=mean(record["correct"] for record in predictions),
            details={"token_accuracy": right / tokens, **cells},
            predictions=predictions,
        )

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task."""
        label, newest = list(runs.items())[-1]
        panels = {name: _cells(score.predictions) for name, score in newest.items()}
        return {"by_depth_and_length": heat_maps(panels, f"Passkey accuracy, {label}" if label else "Passkey accuracy")}


def _answer(subject: Subject, mode: Mode, sample: PasskeySample) -> dict[str, Any]:
    """The record of one sample. The key's last token predicts nothing and is left out of the pass."""
    answer = sample.answer
    ids = torch.tensor([sample.ids[:-1]], device=subject.lm.device)
    guess = mode.last_logits(subject.lm, ids, len(answer))[0].argmax(-1).tolist()
    right = sum(g == a for g, a in zip(guess, answer, strict=True))
    return {
        "length": sample.length,
        "depth": sample.depth,
        "position": sample.position,
        "key": sample.key,
        "guess": subject.tokenizer.decode(guess),
        "correct": right == len(answer),
        "tokens_right": right,
        "tokens": len(answer),
    }


def _cells(predictions: Sequence[Mapping[str, Any]]) -> dict[tuple[int, float], float]:
    """Accuracy by (length, depth)."""
    cells: dict[tuple[int, float], list[bool]] = {}
    for record in predictions:
        cells.setdefault((record["length"], record["depth"]), []).append(record["correct"])
    return {cell: float(mean(correct)) for cell, correct in cells.items()}
