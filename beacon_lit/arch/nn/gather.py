"""Gather rows, with a backward pass that gathers as well."""

from typing import Any

import torch
from torch import Tensor


def gather(
    x: Tensor, index: Tensor, first: Tensor, repeats: Tensor | None = None, unread: Tensor | None = None
) -> Tensor:
    """Return `x[index]`. Most rows of `x` have one place in the index, and some have more.

    Plain indexing scatters its gradient with sorts or half-precision atomics. Here a row's gradient is read from the
    row's first place, and only the gradients at repeated places (keys that later windows see again) are added, in
    float32.

    Args:
        x: (P, ...).
        index: (S,) int64, rows of `x`.
        first: (P,) int64, a place of each row: `index[first[i]] == i`; of no meaning for unread rows.
        repeats: (n,) int64, all other places; default: there are none.
        unread: (n,) int64, rows that have no place; default: there are none.
    """
    return _Gather.apply(x, index, first, repeats, unread)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, index: Tensor, first: Tensor, repeats: Tensor | None, unread: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(index, first, repeats, unread)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        index, first, repeats, unread = ctx.saved_tensors
        out = grad.index_select(0, first)
        if unread is not None and len(unread):
            out = out.index_fill(0, unread, 0)
        if repeats is not None and len(repeats):
            more = torch.zeros_like(out, dtype=torch.promote_types(out.dtype, torch.float32))
            more.index_add_(0, index[repeats], grad[repeats].to(more.dtype))
            out = (out + more).to(grad.dtype)
        return out, None, None, None, None
