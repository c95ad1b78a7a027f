"""Select the raw tokens of a closing window that each KV head keeps as beacons (placement "select").

Shape legend: C closing windows with beacons, w raw tokens per window, B beacons of all windows, K KV heads, H head dim.
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


def selected(k: Tensor, plan: Selection) -> Tensor:
    """Select raw tokens for all beacons of a pass.

    Args:
        k: (n, K, H) keys of raw tokens, before RoPE.
        plan: the tokens to select from.

    Returns:
        (B, K) int64, the raw token that each beacon is for each head, as an index into `k`; see `best`.
    """
    places = best(k[plan.tokens], plan.allowed, plan.counts, plan.most)
    return plan.tokens[plan.window[:, None], places[plan.window, :, plan.place]]


@torch.no_grad()
def best(k: Tensor, allowed: Tensor, counts: Tensor, most: int) -> Tensor:
    """Find the tokens whose keys stand out most in windows.

    Args:
        k: (C, w, K, H), before RoPE.
        allowed: (C, w) bool, tokens that can be selected. Others are selected only if a window has too few of these.
        counts: (C,) int64, tokens to select in each window.
        most: the largest of `counts`.

    Returns:
        (C, K, most) int64, places in the window in the tokens' order; beyond a window's count they mean nothing.
    """
    score = stand_out(k, allowed)
    # A stable sort lets the position alone decide between equal scores.
    found = score.sort(dim=-1, descending=True, stable=True).indices[..., :most]
    wanted = torch.arange(most, device=k.device) < counts[:, None, None]
    return found.masked_fill(~wanted, score.shape[-1]).sort(dim=-1).values  # surplus places come last


def take(x: Tensor, tokens: Tensor) -> Tensor:
    """Take the raw tokens of each head: (n, K, H) and indices (B, K) -> (B, K, H)."""
    return x.gather(0, tokens[..., None].expand(*tokens.shape, x.shape[-1]))
