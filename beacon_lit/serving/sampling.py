"""Choose the next token from logits, each answer with options and random numbers of its own."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

_GREEDY = 1e-5  # temperatures below draw the likeliest token; logits divided by much smaller ones are infinite


class Sampler:
    """Chooses the tokens of one answer.

    Args:
        temperature: 0: always the likeliest token.
        top_p: share of probability that the likeliest tokens must have to be drawn from.
        presence: subtracted from the logits of tokens that the answer has.
        frequency: subtracted from logits as often as the answer has the token.
        seed: None: another answer each time.
    """

    def __init__(self, temperature: float, top_p: float, presence: float, frequency: float, seed: int | None) -> None:
        temperature = temperature if temperature >= _GREEDY else 0
        self.temperature, self.presence, self.frequency = temperature, presence, frequency
        warpers: list[Any] = [TemperatureLogitsWarper(float(temperature))] if temperature > 0 else []
        self.warpers = warpers + ([TopPLogitsWarper(float(top_p))] if temperature > 0 and top_p < 1 else [])
        self.generator = torch.Generator()
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed % 2**63)
        self.said: Counter[int] = Counter()

    def __call__(self, logits: Tensor) -> int:
        """Choose a token from (V,) logits."""
        scores = logits.float()
        if self.said and (self.presence or self.frequency):
            tokens = torch.tensor(list(self.said), device=scores.device)
            counts = torch.tensor(list(self.said.values()), device=scores.device)
            scores = scores.index_add(0, tokens, -(self.presence + self.frequency * counts))
        token = int(scores.argmax()) if self.temperature == 0 else self._draw(scores)
        self.said[token] += 1
        return token

    def _draw(self, scores: Tensor) -> int:
        scores = scores[None]
        for warper in self.warpers:
            scores = warper(None, scores)
        return int(torch.multinomial(scores[0].softmax(-1).cpu(), 1, generator=self.generator))
