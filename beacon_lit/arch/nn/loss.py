"""Compute token losses of a language-model head without ever holding the logits of a whole step."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from beacon_lit.arch.nn.logits import LogitScale
from beacon_lit.arch.plan.rows import move

LossAndSlope = Callable[[Tensor, Tensor, LogitScale, bool], tuple[Tensor, Tensor | None]]
DivergenceAndSlope = Callable[[Tensor, Tensor, LogitScale, float, bool], tuple[Tensor, Tensor | None]]

# Logits held at once, in elements: 2**28 are 512 MiB in bf16, 1,760 tokens of a 152K vocabulary.
CHUNK_ELEMENTS = 2**28
# On a CPU, where larger chunks gain nothing, and getting their memory from the system takes time.
CPU_CHUNK_ELEMENTS = 2**24


class LossHead(nn.Linear):
    """A language-model head that also turns hidden states into token losses, a chunk at a time."""

    compute: LossAndSlope
    diverge: DivergenceAndSlope
    scale: LogitScale = LogitScale()

    @classmethod
    def install(cls, head: nn.Linear, scale: LogitScale) -> None:
        """Turn a backbone's head into a `LossHead`, whose output `scale` makes logits."""
        head.__class__ = cls
        head.compute, head.diverge = loss_and_slope, divergence_and_slope  # type: ignore[assignment]
        head.scale = scale  # type: ignore[assignment]

    def forward(
        self, hidden: Tensor, targets: Tensor | None = None, teacher: Tensor | None = None, temperature: float = 1.0
    ) -> Tensor:
        """Do what the backbone's head does: (..., D) -> (..., V). With targets compute `token_losses`."""
        return super().forward(hidden) if targets is None else self.token_losses(hidden, targets, teacher, temperature)

    def token_losses(self, hidden: Tensor, targets: Tensor, teacher: Tensor | None, temperature: float) -> Tensor:
        """Compute negative log likelihoods, and with a teacher divergences from its predictions by the same head.

        Args:
            hidden: (R, D).
            targets: (R,) int64 token ids; -100 is ignored. On the CPU they cost no synchronisation.
            teacher: (R, D) hidden states, without gradient; None: no divergences.
            temperature: temperature of both distributions in KL(teacher || student).

        Returns:
            (R,) float32, in nats; 0 where ignored. With a teacher (R, 2): cross entropy and KL.
        """
        found = (targets != -100).nonzero().flatten()
        labelled, targets = move(found, hidden.device), move(targets, hidden.device)
        kinds = 1 if teacher is None else 2
        elements = min(CHUNK_ELEMENTS, CPU_CHUNK_ELEMENTS) if hidden.device.type == "cpu" else CHUNK_ELEMENTS
        size = max(1, elements // (kinds * self.out_features))
        chunk = self._recomputed if self.weight.requires_grad else self._at_once
        chunks = [
            chunk(hidden[index], targets[index], None if teacher is None else teacher[index], temperature)
            for index in labelled.split(size)
        ]
        empty = hidden[:0, :1].float().expand(0, kinds)  # keeps the graph when nothing is labelled
        losses = hidden.new_zeros(len(targets), kinds, dtype=torch.float32)
        losses = losses.index_put((labelled,), torch.cat([empty, *chunks]))
        return losses[:, 0] if teacher is None else losses

    def _at_once(self, rows: Tensor, labels: Tensor, teacher: Tensor | None, temperature: float) -> Tensor:
        """Compute the (T, kinds) losses of a chunk for a frozen head."""
        sloped = torch.is_grad_enabled() and rows.requires_grad
        losses: list[OutputLoss] = [lambda output: self.compute(output, labels, self.scale, sloped)]
        if teacher is not None:
            losses.append(lambda output: self.diverge(output, self._output(teacher), self.scale, temperature, sloped))
        return _FrozenHeadLoss.apply(rows, self, *losses)

    def _output(self, hidden: Tensor) -> Tensor:
        """Compute the head's output without the hooks of this module, within which losses are computed."""
        return F.linear(hidden, self.weight, self.bias)

    def _recomputed(self, rows: Tensor, labels: Tensor, teacher: Tensor | None, temperature: float) -> Tensor:
        """Compute the (T, kinds) losses of a chunk for a trained head; the backward pass computes the logits again."""
        return checkpoint(self._chunk, rows, labels, teacher, temperature, use_reentrant=False)

    def _chunk(self, rows: Tensor, labels: Tensor, teacher: Tensor | None, temperature: float) -> Tensor:
        logits = self.scale.logits(self._output(rows)).float()
        losses = [F.cross_entropy(logits, labels, reduction="none")]
        if teacher is not None:
            with torch.no_grad():
                target = (self.scale.logits(self._output(teacher)).float() / temperature).log_softmax(-1)
            student = (logits / temperature).log_softmax(-1)
            losses.append(F.kl_div(student, target, reduction="none", log_target=True).sum(-1))
        return torch.stack(losses, -1)


OutputLoss = Callable[[Tensor], tuple[Tensor, Tensor | None]]


class _FrozenHeadLoss(torch.autograd.Function):
    """Losses of a frozen head.

    The gradient of a token's loss depends on this token's hidden state alone. So the forward pass computes it while it
    has the logits, and the backward pass scales it: no product is computed twice and no logits are kept.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, head: LossHead, *losses: OutputLoss) -> Tensor:
        output = head._output(rows)
        values, slopes = [], []
        for loss in losses:
            value, slope = loss(output)
            values.append(value)
            if slope is not None:
                slopes.append(slope @ head.weight)
            del slope  # frees memory before the next slope is computed
        ctx.save_for_backward(*slopes)
        return torch.stack(values, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grads = [one[:, None].to(slope.dtype) * slope for one, slope in zip(grad.T, ctx.saved_tensors, strict=True)]
        return reduce(torch.add, grads), *[None] * (1 + len(grads))


def loss_and_slope(
    output: Tensor, labels: Tensor, scale: LogitScale, sloped: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Compute cross entropy (T,) float32 of a head's output (T, V), and its slope by the output, in the output's dtype.

    The slope by logits is softmax - one-hot. It is None unless `sloped`.
    """
    logits = scale.logits(output)
    log_p = logits.log_softmax(-1, dtype=torch.float32)
    losses = -log_p.gather(1, labels[:, None])[:, 0]
    if not sloped:
        return losses, None
    slope = log_p.exp_().to(logits.dtype)
    slope.scatter_add_(1, labels[:, None], slope.new_full((len(labels), 1), -1.0))
    return losses, scale.chain(slope, logits)


def divergence_and_slope(
    output: Tensor, teacher: Tensor, scale: LogitScale, temperature: float, sloped: bool = True
) -> tuple[Tensor, Tensor | None]:
    """KL(teacher || student) (T,) float32 of a head's outputs (T, V) at a temperature, and its slope (T, V).

    The slope is by the student's output and in its dtype, and None unless `sloped`. By the student's logits it is
    (student's softmax - teacher's softmax) / temperature.
    """
    logits = scale.logits(output)
    student = (logits.float() / temperature).log_softmax(-1)
    target = (scale.logits(teacher).float() / temperature).log_softmax(-1)
    p = target.exp()
    values = (p * (target - student)).sum(-1)
    return values, scale.chain(((student.exp() - p) / temperature).to(logits.dtype), logits) if sloped else None
