"""Predict what the dense backbone predicts."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from beacon_lit.arch import BeaconLM, BeaconOutput, Observe, Ratios, Teacher


@dataclass(frozen=True)
class Distillation:
    """`(1 - alpha) * cross entropy + alpha * temperature**2 * KL(teacher || student)` (arXiv 1503.02531), in nats.

    The teacher is the dense backbone: the model's own weights without beacons, the whole text before it in sight, in
    one pass without gradients. Behind what it reads of a row a token counts with its cross entropy alone.

    Attributes:
        alpha: share of the divergence, 0 to 1.
        teacher: the temperature, and how much of a row the teacher reads.

    Raises:
        ValueError: `alpha` is out of range.
    """

    alpha: float = 0.5
    teacher: Teacher = field(default_factory=Teacher)

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha!r} is not allowed; allowed: 0 to 1")

    def __call__(self, lm: BeaconLM, batch: dict[str, Any], ratios: Ratios | None) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Objective`. Parts: "cross_entropy", and "kl", at the temperature and without its square."""
        return self.compare(lm, batch, ratios)[:2]

    def compare(
        self, lm: BeaconLM, batch: dict[str, Any], ratios: Ratios | None, observe: Observe | None = None
    ) -> tuple[Tensor, dict[str, Tensor], BeaconOutput]:
        """Run model and teacher: the token losses, their parts, and the model's output with what is observed."""
        out = lm(
            batch["input_ids"],
            batch["attention_mask"],
            labels=batch["labels"],
            ratios=ratios,
            return_logits=False,
            teacher=self.teacher,
            observe=observe,
        )
        alpha = self.alpha * out.taught
        token_loss = (1 - alpha) * out.token_loss + alpha * self.teacher.temperature**2 * out.token_kl
        return token_loss, {"cross_entropy": out.token_loss.detach(), "kl": out.token_kl.detach()}, out
