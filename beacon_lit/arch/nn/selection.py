"""Which raw tokens of a closing window each KV head keeps, where beacons are selected, not run (placement "select").

Shape legend: C closing windows with beacons, w raw tokens a window, B beacons of all of them, R raw tokens of the pass,
K KV heads, H head dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from beacon_lit.arch.plan.layout import Selection

NEIGHBOURS = 5  # keys whose mean decides about a token, so that what belongs together is kept together


def stand_out(k: Tensor, allowed: Tensor) -> Tensor:
    """How little keys are like the mean key of their window: minus the cosine, a mean over neighbours in the window.

    Args:
        k: (C, w, K, H), before RoPE.
        allowed: (C, w) bool, tokens that can be selected; others do not count.

    Returns:
        (C, K, w) float32 or wider, -inf for others.
    """
    keys = F.normalize(k.to(torch.promote_types(k.dtype, torch.float32)), dim=-1).masked_fill(
        ~allowed[..., None, None], 0
    )
    mean = F.normalize(keys.sum(1, keepdim=True), dim=-1)
    score = -(keys * mean).sum(-1).transpose(1, 2)
    # A mean over those neighbours that count.
    counts = allowed[:, None].to(score.dtype)
    total, of = (F.avg_pool1d(x, NEIGHBOURS, 1, NEIGHBOURS // 2) for x in (score, counts))
    return (total / of.clamp(min=1e-6)).masked_fill(~allowed[:, None], float("-inf"))


@torch.no_grad()
def selected(k: Tensor, plan: Selection) -> Tensor:
    """Select raw tokens for all beacons of a pass.

    Args:
        k: (R, K, H) keys of raw tokens, before RoPE.
        plan: of the pass.

    Returns:
        (B, K) int64, the raw token that a beacon is for a head; the beacons of a window are in the tokens' order. Those
        that are not allowed are taken only where the others do not suffice.
    """
    score = stand_out(k[plan.tokens], plan.allowed)
    width = score.shape[-1]
    # Sorted stably, so that equal scores are decided by position alone.
    best = score.sort(dim=-1, descending=True, stable=True).indices[..., : plan.most]
    wanted = torch.arange(plan.most, device=k.device) < plan.counts[:, None, None]
    places = best.masked_fill(~wanted, width).sort(dim=-1).values  # in their order; those too many at the end
    places = places[plan.window, :, plan.place]  # (B, K)
    return plan.tokens[plan.window[:, None], places]


def take(x: Tensor, tokens: Tensor) -> Tensor:
    """(R, K, H) and (B, K) raw tokens for each head -> (B, K, H)."""
    return x.gather(0, tokens[..., None].expand(*tokens.shape, x.shape[-1]))
