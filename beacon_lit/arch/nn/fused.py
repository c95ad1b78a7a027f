"""Find a backbone's projections: each is a linear layer of its own, or some rows of a fused one (Phi-3)."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

from torch import nn

FUSED = {"qkv_proj": ("q", "k", "v"), "gate_up_proj": ("gate", "up")}  # the rows' order, from the top


def linear_layers(module: nn.Module, names: Sequence[str]) -> Iterator[tuple[Any, dict[str, int]]]:
    """Yield the linear layers that hold projections, each with the projections in it and the size of their outputs.

    Args:
        module: an attention module or an MLP.
        names: names of projections, e.g. "qkv"; of a fused layer all, in its order.
    """
    fused = next((layer for layer, parts in FUSED.items() if parts == tuple(names) and hasattr(module, layer)), None)
    if fused is not None:
        yield getattr(module, fused), dict(zip(names, _sizes(module, fused), strict=True))
        return
    for name in names:
        layer = getattr(module, f"{name}_proj")
        yield layer, {name: layer.out_features}


def part(module: nn.Module, name: str) -> tuple[Any, slice] | None:
    """Return the linear layer that holds a projection, and its rows there; None if the module has no such layer."""
    layer = getattr(module, f"{name}_proj", None)
    if layer is not None:
        return layer, slice(0, layer.out_features)
    for fused, parts in FUSED.items():
        if name in parts and hasattr(module, fused):
            ends = accumulate(_sizes(module, fused), initial=0)
            return getattr(module, fused), slice(*list(pairwise(ends))[parts.index(name)])
    return None


def _sizes(module: Any, fused: str) -> list[int]:
    """Return the size of each part's output."""
    config = module.config
    heads = config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads
    shares = heads if fused == "qkv_proj" else (1, 1)
    return [share * getattr(module, fused).out_features // sum(shares) for share in shares]
