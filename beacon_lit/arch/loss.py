"""Per-token loss of a language-model head, without ever holding the logits of a whole step."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LossAndSlope = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Logits held at once, in elements: 2**27 are 256 MiB in bf16, 880 tokens of a 152K vocabulary.
CHUNK_ELEMENTS = 2**27


class LossHead(nn.Linear):
    """A language-model head that also turns hidden states into token losses, a chunk at a time."""

    compute: LossAndSlope

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits (..., V) of hidden states (..., D); or, with targets, the losses of `token_loss`."""
        return super().forward(hidden) if targets is None else self.token_loss(hidden, targets)

    def token_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Negative log likelihoods in nats.

        Args:
            hidden: (R, D).
            targets: (R,) int64 token ids; -100 is ignored.

        Returns:
            (R,) float32; 0 where ignored.
        """
        wanted = (targets != -100).nonzero().flatten()
        size = max(1, CHUNK_ELEMENTS // self.out_features)
        losses = []
        for index in wanted.split(size):
            rows, labels = hidden[index], targets[index]
            if self.weight.requires_grad:
                losses.append(checkpoint(self._chunk, rows, labels, use_reentrant=False))
            else:
                losses.append(_FrozenHeadLoss.apply(rows, self.weight, self.bias, labels, self.compute))
        none = hidden[:0].sum(1).float()  # keeps the graph when nothing is labelled
        return torch.zeros_like(targets, dtype=torch.float32).index_put((wanted,), torch.cat([none, *losses]))

    def _chunk(self, rows: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(super().forward(rows).float(), labels, reduction="none")


class _FrozenHeadLoss(torch.autograd.Function):
    """Cross entropy of a head that is not trained.

    The gradient of a token's loss depends on that token's hidden state alone: it is computed here, while the logits
    are at hand, and scaled by what comes back. So nothing is computed twice and no logits are kept.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, compute: LossAndSlope
    ) -> Tensor:
        logits = F.linear(rows, weight, bias)
        losses, slope = compute(logits, labels)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(slope @ weight)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return grad[:, None].to(slope.dtype) * slope, None, None, None, None


def loss_and_slope(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy (T,) float32 of logits (T, V), and its derivative (T, V) in their dtype: softmax - one-hot."""
    log_p = logits.log_softmax(-1, dtype=torch.float32)
    losses = -log_p.gather(1, labels[:, None])[:, 0]
    slope = log_p.exp().to(logits.dtype)
    return losses, slope.scatter_add(1, labels[:, None], slope.new_full((len(labels), 1), -1.0))
