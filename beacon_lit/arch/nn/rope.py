"""Rotate queries and keys (RoPE), and tell which RoPE types and how many positions a backbone has."""

from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.llama.modeling_llama import rotate_half

Rope = tuple[Tensor, Tensor]  # cos and sin, each (tokens, H), or fewer columns if only a part of a head is rotated

ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # frequencies of other types change with the length


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE to (tokens, heads, H), with the backbones' operations, so that results agree bit for bit.

    If cos and sin have fewer than H columns, only as many of a head's first dimensions are rotated (Phi-4 mini).
    """
    size = cos.shape[-1]
    if size < x.shape[-1]:
        return torch.cat([rotate(x[..., :size], cos, sin), x[..., size:]], -1)
    return x * cos[:, None] + rotate_half(x) * sin[:, None]


def rotated_layers(config: PretrainedConfig) -> list[bool]:
    """Return for each layer whether queries and keys are rotated; SmolLM3's `no_rope_layers` has 1 for such a layer."""
    return [bool(each) for each in getattr(config, "no_rope_layers", None) or [1] * config.num_hidden_layers]


def rope_settings(config: PretrainedConfig) -> dict[str, dict[str, Any]]:
    """Return the settings of RoPE for each type of layers; of "full_attention" alone where all layers have the same."""
    rope = config.rope_parameters
    return {"full_attention": rope} if "rope_type" in rope else dict(rope)


def positions(config: PretrainedConfig) -> int:
    """Position slots that a backbone supports, RoPE scaling included."""
    rope = rope_settings(config)["full_attention"]
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    scaled = (
        int(original * rope["factor"]) if rope["rope_type"] == "yarn" else 0
    )  # a Llama-3 config gives its scaled length
    return max(config.max_position_embeddings, scaled)
