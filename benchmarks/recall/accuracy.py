"""Measure how often a model recalls a record, by the position in a window where the prompt ends."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor

from beacon_lit import BeaconLM
from benchmarks.recall.task import Recall

METHODS = ("one pass", "generate")


@dataclass(frozen=True)
class Accuracy:
    """Shares of correct answers, by the length of the prompt modulo the window.

    Attributes:
        complete: for each remainder, the share of answers whose tokens are all correct.
        tokens: for each remainder, the share of correct tokens at each place of the answer.
    """

    complete: tuple[float, ...]
    tokens: tuple[tuple[float, ...], ...]

    def at(self, remainders: Iterable[int]) -> float:
        """Return the mean share of complete answers at these remainders."""
        return mean(self.complete[remainder] for remainder in remainders)

    def besides(self, remainders: Iterable[int]) -> float:
        """Return the mean share of complete answers at all other remainders."""
        return self.at(set(range(len(self.complete))) - set(remainders))


@torch.no_grad()
def measure(lm: BeaconLM, task: Recall, method: str, shortest: int, samples: int, seed: int = 0) -> Accuracy:
    """Ask for one record of a row, at the end of prompts of `window` consecutive lengths.

    Args:
        lm: the model, which is left in eval mode.
        task: the task.
        method: "one pass" over prompt and answer, where a token is correct if it is the most likely one, or "generate".
        shortest: tokens of the shortest prompt, a multiple of the window.
        samples: prompts per length.
        seed: seed of the prompts; both methods are given the same prompts.

    Raises:
        ValueError: another method, no samples, or a length that is no multiple of the window or too short.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not allowed; allowed: {', '.join(METHODS)}")
    window = lm.beacon.window
    if shortest % window:
        raise ValueError(f"shortest={shortest!r} is not allowed; allowed: multiples of window={window}")
    lm.eval()
    right = []
    for length in range(shortest, shortest + window):
        rng = random.Random(f"{seed}/{length}")
        ids, _ = task.batch(rng, samples, length + task.answer, task.records, at_end=True)
        ids = ids.to(lm.device)
        right.append((_answers(lm, ids, length, method) == ids[:, length:]).double())
    return Accuracy(
        complete=tuple(answers.prod(1).mean().item() for answers in right),
        tokens=tuple(tuple(answers.mean(0).tolist()) for answers in right),
    )


def _answers(lm: BeaconLM, ids: Tensor, length: int, method: str) -> Tensor:
    """Return the model's answers, (B, L - length), to (B, L) prompts of `length` tokens with their answers."""
    new = ids.shape[1] - length
    if method == "one pass":
        return lm(ids[:, :-1], logits_to_keep=new).logits.argmax(-1)
    return lm.generate(ids[:, :length], max_new_tokens=new, do_sample=False)[:, length:]
