"""Predict what the dense backbone predicts, and attend to what it attends to."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from beacon_lit.arch import BeaconLM, Observe, Ratios, Teacher

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class AttentionDistillation:
    """`Distillation`, plus `weight` times how far attention outputs are from the dense backbone's.

    A token's difference is the mean over layers of the squared distance of its attention outputs, relative to the
    square of the backbone's, and at most `limit`: single tokens of huge activations do not count for all. Summary
    tokens were trained with a term of this kind (arXiv 2604.24432, there absolute, in all layers).

    Attributes:
        layers: layers that are compared, counted from 0.
        weight: of the difference; not below 0.
        limit: of one layer's difference; above 0.
        alpha, teacher: see `Distillation`.

    Raises:
        ValueError: no layers, or a number out of range.
    """

    layers: tuple[int, ...]
    weight: float = 1.0
    limit: float = 1.0
    alpha: float = 0.5
    teacher: Teacher = field(default_factory=Teacher)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise ValueError("layers=[] is not allowed; allowed: at least one layer")
        for name, fits, allowed in (
            ("weight", self.weight >= 0, "0 or more"),
            ("limit", self.limit > 0, "above 0"),
            ("alpha", 0 <= self.alpha <= 1, "0 to 1"),
        ):
            if not fits:
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed; allowed: {allowed}")

    def __call__(self, lm: BeaconLM, batch: dict[str, Any], ratios: Ratios | None) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Objective`. Parts: "cross_entropy", "kl" (see `Distillation`), and "attention", the difference."""
        out = lm(
            batch["input_ids"],
            batch["attention_mask"],
            labels=batch["labels"],
            ratios=ratios,
            return_logits=False,
            teacher=self.teacher,
            observe=Observe(attention=self.layers),
        )
        pairs = [(out.observed[name].float(), dense.float()) for name, dense in out.taught_states.items()]
        found = [
            ((own - dense).square().sum(-1) / dense.square().sum(-1).clamp(min=_TINY)).clamp(max=self.limit)
            for own, dense in pairs
        ]
        # What predicts a token is computed at the token before.
        difference = torch.stack(found).mean(0).roll(1, 1) * out.taught
        alpha = self.alpha * out.taught
        token_loss = (1 - alpha) * out.token_loss + alpha * self.teacher.temperature**2 * out.token_kl
        parts = {"cross_entropy": out.token_loss, "kl": out.token_kl, "attention": difference}
        return token_loss + self.weight * difference, {name: part.detach() for name, part in parts.items()}
