"""Fuse operations with `torch.compile`: norms, MLPs, rotations, the loss, and a layer's step of decoding."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from beacon_lit.arch.nn.decoder import DecoderLayers, RunLayer, run_layer
from beacon_lit.arch.nn.loss import LossHead, divergence_and_slope, loss_and_slope
from beacon_lit.arch.nn.packed import stored


def compile_pointwise(layers: DecoderLayers, head: LossHead) -> None:
    """Compile the pointwise operations of layers and head; attention, experts and layout stay as they are.

    So do MLPs with int8 weights: what inductor makes of their products with many tokens takes hundreds of times as
    long.
    """
    rotation = torch.compile(layers[0].self_attn.rotation, dynamic=True)
    for layer in layers:
        layer.self_attn.rotation = rotation  # type: ignore[method-assign]
        for module in layer.children():
            if module is not layer.self_attn and not hasattr(module, "experts") and not _in_int8(module):
                module.compile(dynamic=True)
    head.compute = torch.compile(loss_and_slope, dynamic=True)
    head.diverge = torch.compile(divergence_and_slope, dynamic=True)


def _in_int8(module: nn.Module) -> bool:
    return any(held.dtype == torch.int8 for parameter in module.parameters() for held in stored(parameter))


def compiled_step() -> RunLayer:
    """Return `run_layer`, compiled whole, for decoding.

    With one row a product with a weight is a sum over the weight's columns, which takes in what comes before and after
    it, and other sums over the same row. Such kernels are tuned on the card, and reach its copy rate.
    """
    return torch.compile(run_layer, backend=_tuned)


def _tuned(graph: Any, inputs: Any) -> Any:
    from torch._inductor.compile_fx import compile_fx  # takes a second

    options = {"coordinate_descent_tuning": True}
    return compile_fx(graph, inputs, config_patches=options, decompositions=Decompositions.own())


class Decompositions(dict[Any, Callable[..., Any]]):
    """Operations and the functions that write them as others.

    It pickles by name, so that the compiled code is found in torch's cache by the next process.
    """

    @classmethod
    def own(cls) -> "Decompositions":
        """Return inductor's own, and `row_by_matrix`."""
        from torch._inductor.decomposition import select_decomp_table

        return cls({**select_decomp_table(), torch.ops.aten.addmm.default: row_by_matrix})

    def __reduce__(self) -> tuple[Any, ...]:
        return Decompositions.own, ()


def row_by_matrix(bias: Tensor, row: Tensor, matrix: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Write (out,) + (1, in) x (in, out) on a GPU as a sum, as coordinate-descent tuning does without a bias."""
    if row.shape[0] != 1 or not row.is_cuda or (beta, alpha) != (1, 1):
        return NotImplemented
    return ((row.float()[:, :, None] * matrix.float()).sum(1) + bias.float()).to(row.dtype)
