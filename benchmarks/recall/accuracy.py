"""How often a model recalls what it is asked for, by where in a window its prompt ends."""

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
    """Shares of right answers, by the length of the prompt modulo the window.

    Attributes:
        complete: for each remainder, the share of answers whose tokens are all right.
        tokens: for each remainder, the share of right tokens at each place of the answer.
    """

    complete: tuple[float, ...]
    tokens: tuple[tuple[float, ...], ...]

    def at(self, remainders: Iterable[int]) -> float:
        """Mean share of complete answers at these remainders."""
        return mean(self.complete[remainder] for remainder in remainders)

    def besides(self, remainders: Iterable[int]) -> float:
        """Mean share of complete answers at all others."""
        return self.at(set(range(len(self.complete))) - set(remainders))


@torch.no_grad()
def measure(lm: BeaconLM, task: Recall, method: str, shortest: int, samples: int, seed: int = 0) -> Accuracy:
    """Ask for one record of a row, at the end of prompts of `window` consecutive lengths.

    Args:
        lm: the model; it is left in eval mode.
        task: its task.
        method: "one pass" (over prompt and answer; a token is right when it is the most likely one) or "generate".
        shortest: tokens of the shortest prompt, a multiple of the window.
        samples: prompts of each length.
        seed: decides the prompts; both methods are given the same.

    Raises:
        ValueError: another method, no samples, a length off the window's multiples or too short for the records.
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
    """(B, L) prompts of `length` tokens with their answers -> (B, L - length) what the model answers."""
    new = ids.shape[1] - length
    if method == "one pass":
        return lm(ids[:, :-1], logits_to_keep=new).logits.argmax(-1)
    return lm.generate(ids[:, :length], max_new_tokens=new, do_sample=False)[:, length:]
