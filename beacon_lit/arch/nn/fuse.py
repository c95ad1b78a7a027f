"""Fuse pointwise operations with `torch.compile`: norms, MLPs, rotations and the loss."""

import torch

from beacon_lit.arch.nn.decoder import DecoderLayers
from beacon_lit.arch.nn.loss import LossHead, divergence_and_slope, loss_and_slope


def compile_pointwise(layers: DecoderLayers, head: LossHead) -> None:
    """Compile the pointwise operations of layers and head; attention, experts and layout stay as they are."""
    rotation = torch.compile(layers[0].self_attn.rotation, dynamic=True)
    for layer in layers:
        layer.self_attn.rotation = rotation  # type: ignore[method-assign]
        for module in layer.children():
            if module is not layer.self_attn and not hasattr(module, "experts"):
                module.compile(dynamic=True)
    head.compute = torch.compile(loss_and_slope, dynamic=True)
    head.diverge = torch.compile(divergence_and_slope, dynamic=True)
