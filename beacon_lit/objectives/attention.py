"""Train beacons to reproduce the dense backbone's predictions and attention outputs."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from beacon_lit.arch import BeaconLM, Observe, Ratios
from beacon_lit.objectives.distill import Distillation

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, kw_only=True)
class AttentionDistillation(Distillation):
    """Add to `Distillation` `weight` times the difference between attention outputs and the dense backbone's.

    A token's difference is the mean over layers of the squared distance between attention outputs, relative to the
    squared norm of the backbone's output. Each layer's term is capped at `limit`, so that single tokens with huge
    activations do not dominate. Summary tokens were trained with such a term (arXiv 2604.24432, there absolute and in
    all layers).

    Attributes:
        layers: the layers to compare, counted from 0.
        weight: weight of the difference; not below 0.
        limit: cap of one layer's difference; above 0.

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

    def check(self, lm: BeaconLM) -> None:
        """Raise a ValueError unless the model has all `layers`."""
        count = lm.config.num_hidden_layers
        if not set(self.layers) <= set(range(count)):
            raise ValueError(
                f"objective.layers={list(self.layers)} is not allowed: the model has {count} layers; "
                f"allowed: 0 to {count - 1}"
            )

    def __call__(
        self, lm: BeaconLM, batch: Mapping[str, Tensor], ratios: Ratios | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return token losses, see `Objective`. Parts: those of `Distillation`, and "attention", the difference."""
        token_loss, parts, out = self.compare(lm, batch, ratios, Observe(attention=self.layers))
        assert out.observed is not None and out.taught_states is not None and out.taught is not None
        pairs = [(out.observed[name].float(), dense.float()) for name, dense in out.taught_states.items()]
        found = [
            ((own - dense).square().sum(-1) / dense.square().sum(-1).clamp(min=_TINY)).clamp(max=self.limit)
            for own, dense in pairs
        ]
        # A token is predicted by the outputs at the token before.
        difference = torch.stack(found).mean(0).roll(1, 1) * out.taught
        return token_loss + self.weight * difference, {**parts, "attention": difference.detach()}
