"""Multiply by torchao's int4 weights: few tokens by its kernel, many by the unpacked values; and train through them.

Shape legend: N outputs and K inputs, padded to whole tiles; G inputs of a group, which have a scale and a zero point.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 128  # tokens up to which the kernel is used; unpacking is faster from 55 (compiled) to 500 on, docs/benchmarks.md


class Int4Linear(nn.Linear):
    """A linear layer whose weight is an `Int4TilePackedTo4dTensor`, put on instances by `adopt`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of `x`."""
        tokens = x.numel() // x.shape[-1]
        if tokens <= FEW and not (x.requires_grad and torch.is_grad_enabled()):
            return super().forward(x)
        weight: Any = self.weight
        out = Product.apply(x, weight.qdata, weight.scale_and_zero, self.out_features)
        return out if self.bias is None else out + self.bias.to(x.dtype)


def adopt(model: nn.Module) -> None:
    """Turn linear layers with int4 weights into `Int4Linear`, so that texts are read fast and gradients pass through.

    Weights that scale activations before the product, and other packings of int4, stay as they are.
    """
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        packed = type(weight).__name__ == "Int4TilePackedTo4dTensor"
        if type(module) is nn.Linear and packed and weight.act_pre_scale is None:
            module.__class__ = Int4Linear


class Product(torch.autograd.Function):
    """Multiply tokens by the values of a weight, which the backward pass unpacks again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, qdata: Tensor, scale_and_zero: Tensor, out: int) -> Tensor:
        """Multiply (..., in) by a weight (out, in), whose tiles and scales `values` describes: -> (..., out)."""
        ctx.save_for_backward(qdata, scale_and_zero)
        ctx.inputs, ctx.out = x.shape[-1], out
        return F.linear(x, values(qdata, scale_and_zero)[:out, : x.shape[-1]].to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """Multiply the gradient (..., out) by the weight: -> (..., in)."""
        weight = values(*ctx.saved_tensors)[: ctx.out, : ctx.inputs]
        return gradient @ weight.to(gradient.dtype), None, None, None


def values(qdata: Tensor, scale_and_zero: Tensor) -> Tensor:
    """Return the values of a packed weight: (N, K) bfloat16.

    A tile is what the 32 threads of a warp load for 8 outputs and 128 inputs. Of output 8 n + r and input 128 k + c,
    thread 4 r + c // 2 % 4 has the integer: in its int32 number c // 32, in 4 bits of the byte c // 16 % 2 + 2 (c % 2),
    the low ones if c // 8 is even (`_convert_weight_to_int4pack` of PyTorch).

    Args:
        qdata: (N / 8, K / 128, 32, 4) int32, two integers of 0 to 15 in a byte.
        scale_and_zero: (K / G, N, 2) bfloat16; an integer i stands for (i - 8) * scale + zero.
    """
    pairs = qdata.view(torch.uint8)
    integers = torch.stack([pairs & 15, pairs >> 4], -1)
    tiles = integers.view(*qdata.shape[:2], 8, 4, 4, 2, 2, 2)  # c: // 2 % 4, // 32, % 2, // 16 % 2, // 8 % 2
    ordered = tiles.permute(0, 2, 1, 4, 6, 7, 3, 5).reshape(8 * qdata.shape[0], len(scale_and_zero), -1)
    scale, zero = scale_and_zero.transpose(0, 1).unsqueeze(-1).unbind(2)  # (N, K / G, 1)
    return torch.addcmul(zero, ordered.to(zero.dtype) - 8, scale).flatten(1)
