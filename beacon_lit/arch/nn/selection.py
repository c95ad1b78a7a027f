"""Select the raw tokens of a closing window that each KV head keeps as beacons (placement "select").

Shape legend: C closing windows with beacons, w raw tokens per window, B beacons of all windows, R raw tokens of the
pass, K KV heads, H head dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from beacon_lit.arch.plan.layout import Selection

NEIGHBOURS = 5  # scores are averaged over as many neighbours, so that adjacent tokens are kept together


def stand_out(k: Tensor, allowed: Tensor) -> Tensor:
    """Score keys by how much they differ from their window's mean key: minus the cosine, averaged over neighbours.

    Args:
        k: (C, w, K, H), before RoPE.
        allowed: (C, w) bool, tokens that can be selected; others enter no mean.

    Returns:
        (C, K, w) float32 or wider, -inf for tokens that cannot be selected.
    """
    keys = F.normalize(k.to(torch.promote_types(k.dtype, torch.float32)), dim=-1).masked_fill(
        ~allowed[..., None, None], 0
    )
    mean = F.normalize(keys.sum(1, keepdim=True), dim=-1)
    score = -(keys * mean).sum(-1).transpose(1, 2)
    # Average over allowed neighbours only.
    counted = allowed[:, None].to(score.dtype)
    total, share = (F.avg_pool1d(x, NEIGHBOURS, 1, NEIGHBOURS // 2) for x in (score, counted))
    return (total / share.clamp(min=1e-6)).masked_fill(~allowed[:, None], float("-inf"))


@torch.no_grad()
def selected(k: Tensor, plan: Selection) -> Tensor:
    """Select raw tokens for all beacons of a pass.

    Args:
        k: (R, K, H) keys of raw tokens, before RoPE.
        plan: the tokens to select from.

    Returns:
        (B, K) int64, stream position of the raw token that each beacon is for each head, in the tokens' order within a
        window. Tokens that are not allowed are selected only if a window has too few others.
    """
    score = stand_out(k[plan.tokens], plan.allowed)
    width = score.shape[-1]
    # A stable sort lets the position alone decide between equal scores.
    best = score.sort(dim=-1, descending=True, stable=True).indices[..., : plan.most]
    wanted = torch.arange(plan.most, device=k.device) < plan.counts[:, None, None]
    places = best.masked_fill(~wanted, width).sort(dim=-1).values  # in the tokens' order; surplus places come last
    places = places[plan.window, :, plan.place]  # (B, K)
    return plan.tokens[plan.window[:, None], places]


def take(x: Tensor, tokens: Tensor) -> Tensor:
    """Take the raw tokens of each head: (R, K, H) and positions (B, K) -> (B, K, H)."""
    return x.gather(0, tokens[..., None].expand(*tokens.shape, x.shape[-1]))
