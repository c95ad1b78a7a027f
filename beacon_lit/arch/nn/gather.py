"""Gather rows, with a backward pass that gathers too."""

from typing import Any

import torch
from torch import Tensor


def gather(x: Tensor, index: Tensor, own: Tensor, shared: Tensor, unread: Tensor) -> Tensor:
    """`x[index]`, for an index in which every row of `x` that is read has one place of its own and some have more.

    Plain indexing scatters its gradient with sorts or half-precision atomics. Here a row's gradient is read from its
    own place; only the further places, keys that later windows see again, are added to it, in float32.

    Args:
        x: (P, ...).
        index: (S,) int64 rows of `x`, S >= P.
        own: (P,) int64, the place of each row: `index[own[i]] == i`.
        shared: int64, all other places.
        unread: (n,) int64, rows that have no place.
    """
    return _Gather.apply(x, index, own, shared, unread)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, own: Tensor, shared: Tensor, unread: Tensor) -> Tensor:
        ctx.save_for_backward(index, own, shared, unread)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        index, own, shared, unread = ctx.saved_tensors
        out = grad.index_select(0, own)
        if len(unread):
            out = out.index_fill(0, unread, 0)
        if len(shared):
            more = torch.zeros_like(out, dtype=torch.promote_types(out.dtype, torch.float32))
            more.index_add_(0, index[shared], grad[shared].to(more.dtype))
            out = (out + more).to(grad.dtype)
        return out, None, None, None, None
