"""Train beacons to reproduce the dense backbone's predictions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from beacon_lit.arch import BeaconLM, BeaconOutput, Observe, Ratios, Teacher


@dataclass(frozen=True)
class Distillation:
    """Mix cross entropy and divergence from the dense backbone (arXiv 1503.02531).

    The loss of a token is `(1 - alpha) * cross entropy + alpha * temperature**2 * KL(teacher || student)`, in nats. The
    teacher is the dense backbone: the model's own weights without beacons, which attend to the whole text before a
    token, in one pass without gradients. A token beyond the teacher's length counts with its cross entropy alone.

    Attributes:
        alpha: share of the divergence, 0 to 1.
        teacher: the temperature, and the number of tokens that the teacher reads of a row.

    Raises:
        ValueError: `alpha` is out of range.
    """

    alpha: float = 0.5
    teacher: Teacher = field(default_factory=Teacher)

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha!r} is not allowed; allowed: 0 to 1")

    def __call__(
        self, lm: BeaconLM, batch: Mapping[str, Tensor], ratios: Ratios | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return token losses, see `Objective`. Parts: "cross_entropy", and "kl" without the factor temperature**2."""
        return self.compare(lm, batch, ratios)[:2]

    def compare(
        self, lm: BeaconLM, batch: Mapping[str, Tensor], ratios: Ratios | None, observe: Observe | None = None
    ) -> tuple[Tensor, dict[str, Tensor], BeaconOutput]:
        """Run model and teacher; return token losses, their parts, and the model's output with the observed states."""
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
