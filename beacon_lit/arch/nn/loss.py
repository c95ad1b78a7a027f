"""Per-token losses of a language-model head, without ever holding the logits of a whole step."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LossAndSlope = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
DivergenceAndSlope = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]

# Logits held at once, in elements: 2**27 are 256 MiB in bf16, 880 tokens of a 152K vocabulary.
CHUNK_ELEMENTS = 2**27


class LossHead(nn.Linear):
    """A language-model head that also turns hidden states into token losses, a chunk at a time."""

    compute: LossAndSlope
    diverge: DivergenceAndSlope

    @classmethod
    def install(cls, head: nn.Linear) -> None:
        """Make a backbone's head one of this class."""
        head.__class__ = cls
        head.compute, head.diverge = loss_and_slope, divergence_and_slope  # type: ignore[assignment]

    def forward(
        self, hidden: Tensor, targets: Tensor | None = None, teacher: Tensor | None = None, temperature: float = 1.0
    ) -> Tensor:
        """Logits (..., V) of hidden states (..., D); or, with targets, the losses of `token_losses`."""
        return super().forward(hidden) if targets is None else self.token_losses(hidden, targets, teacher, temperature)

    def token_losses(self, hidden: Tensor, targets: Tensor, teacher: Tensor | None, temperature: float) -> Tensor:
        """Negative log likelihoods, and divergences from what the same head makes of a teacher's hidden states.

        Args:
            hidden: (R, D).
            targets: (R,) int64 token ids; -100 is ignored.
            teacher: (R, D), without gradient.
            temperature: of both distributions in KL(teacher || student).

        Returns:
            (R,) float32 nats; 0 where ignored. With a teacher (R, 2): cross entropy, and KL.
        """
        wanted = (targets != -100).nonzero().flatten()
        kinds = 1 if teacher is None else 2
        size = max(1, CHUNK_ELEMENTS // (kinds * self.out_features))
        chunk = self._recomputed if self.weight.requires_grad else self._at_once
        chunks = [
            chunk(hidden[index], targets[index], None if teacher is None else teacher[index], temperature)
            for index in wanted.split(size)
        ]
        none = hidden[:0, :1].float().expand(0, kinds)  # keeps the graph when nothing is labelled
        losses = hidden.new_zeros(len(targets), kinds, dtype=torch.float32)
        losses = losses.index_put((wanted,), torch.cat([none, *chunks]))
        return losses[:, 0] if teacher is None else losses

    def _at_once(self, rows: Tensor, labels: Tensor, teacher: Tensor | None, temperature: float) -> Tensor:
        """A chunk's (T, kinds) losses, of a head that is not trained."""
        losses: list[LogitLoss] = [lambda logits: self.compute(logits, labels)]
        if teacher is not None:
            losses.append(lambda logits: self.diverge(logits, F.linear(teacher, self.weight, self.bias), temperature))
        return _FrozenHeadLoss.apply(rows, self.weight, self.bias, *losses)

    def _recomputed(self, rows: Tensor, labels: Tensor, teacher: Tensor | None, temperature: float) -> Tensor:
        """The same, of a head that is."""
        return checkpoint(self._chunk, rows, labels, teacher, temperature, use_reentrant=False)

    def _chunk(self, rows: Tensor, labels: Tensor, teacher: Tensor | None, temperature: float) -> Tensor:
        logits = super().forward(rows).float()
        losses = [F.cross_entropy(logits, labels, reduction="none")]
        if teacher is not None:
            with torch.no_grad():
                wanted = (super().forward(teacher).float() / temperature).log_softmax(-1)
            own = (logits / temperature).log_softmax(-1)
            losses.append(F.kl_div(own, wanted, reduction="none", log_target=True).sum(-1))
        return torch.stack(losses, -1)


LogitLoss = Callable[[Tensor], tuple[Tensor, Tensor]]


class _FrozenHeadLoss(torch.autograd.Function):
    """Losses of a head that is not trained.

    The gradient of a token's loss depends on that token's hidden state alone: it is computed here, while the logits
    are at hand, and scaled by what comes back. So nothing is computed twice and no logits are kept.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, *losses: LogitLoss) -> Tensor:
        logits = F.linear(rows, weight, bias)
        values, slopes = [], []
        for loss in losses:
            value, slope = loss(logits)
            values.append(value)
            if ctx.needs_input_grad[0]:
                slopes.append(slope @ weight)
            del slope  # before the next one is made
        ctx.save_for_backward(*slopes)
        return torch.stack(values, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        parts = [one[:, None].to(slope.dtype) * slope for one, slope in zip(grad.T, ctx.saved_tensors, strict=True)]
        return reduce(torch.add, parts), *[None] * (2 + len(parts))


def loss_and_slope(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy (T,) float32 of logits (T, V), and its derivative (T, V) in their dtype: softmax - one-hot."""
    log_p = logits.log_softmax(-1, dtype=torch.float32)
    losses = -log_p.gather(1, labels[:, None])[:, 0]
    slope = log_p.exp().to(logits.dtype)
    return losses, slope.scatter_add(1, labels[:, None], slope.new_full((len(labels), 1), -1.0))


def divergence_and_slope(logits: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) at a temperature, of logits (T, V): values (T,) float32, and the derivative (T, V).

    The derivative by the student's logits, in their dtype, is (student's softmax - teacher's) / temperature.
    """
    own = (logits.float() / temperature).log_softmax(-1)
    wanted = (teacher.float() / temperature).log_softmax(-1)
    p = wanted.exp()
    values = (p * (wanted - own)).sum(-1)
    return values, ((own.exp() - p) / temperature).to(logits.dtype)
