"""Predict what the dense backbone predicts, and attend to what it attends to."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from beacon_lit.arch import BeaconLM, Observe, Ratios
from beacon_lit.objectives.distill import Distillation

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, kw_only=True)
class AttentionDistillation(Distillation):
    """`Distillation`, plus `weight` times how far attention outputs are from the dense backbone's.

    A token's difference is the mean over layers of the squared distance of its attention outputs, relative to the
    square of the backbone's, and at most `limit`: single tokens of huge activations do not count for all. Summary
    tokens were trained with a term of this kind (arXiv 2604.24432, there absolute, in all layers).

    Attributes:
        layers: layers that are compared, counted from 0.
        weight: of the difference; not below 0.
        limit: of one layer's difference; above 0.

    Raises:
        ValueError: no layers, or a number out of range.
    """

    layers: tuple[int, ...]
    weight: float = 1.0
    limit: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise ValueError("layers=[] is not allowed; allowed: at least one layer")
        if not self.weight >= 0:
            raise ValueError(f"weight={self.weight!r} is not allowed; allowed: 0 or more")
        if not self.limit > 0:
            raise ValueError(f"limit={self.limit!r} is not allowed; allowed: above 0")

    def __call__(self, lm: BeaconLM, batch: dict[str, Any], ratios: Ratios | None) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Objective`. Parts: those of `Distillation`, and "attention", the difference."""
        token_loss, parts, out = self.compare(lm, batch, ratios, Observe(attention=self.layers))
        assert out.observed is not None and out.taught_states is not None and out.taught is not None
        pairs = [(out.observed[name].float(), dense.float()) for name, dense in out.taught_states.items()]
        found = [
            ((own - dense).square().sum(-1) / dense.square().sum(-1).clamp(min=_TINY)).clamp(max=self.limit)
            for own, dense in pairs
        ]
        # What predicts a token is computed at the token before.
        difference = torch.stack(found).mean(0).roll(1, 1) * out.taught
        return token_loss + self.weight * difference, {**parts, "attention": difference.detach()}
