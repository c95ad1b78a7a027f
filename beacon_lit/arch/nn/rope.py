"""Rotary positions: which scalings work with memory, how many positions a backbone has, and the rotation."""

from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.llama.modeling_llama import rotate_half

Rope = tuple[Tensor, Tensor]  # cos and sin, each (tokens, H)

ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # the others' frequencies change with the length


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on (tokens, heads, H), with the operations of the backbones so that results are the same to the bit."""
    return x * cos[:, None] + rotate_half(x) * sin[:, None]


def positions(config: PretrainedConfig) -> int:
    """Position slots that a backbone supports, RoPE scaling included."""
    rope = config.rope_parameters
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    scaled = int(original * rope["factor"]) if rope["rope_type"] == "yarn" else 0  # a Llama-3 config says what it has
    return max(config.max_position_embeddings, scaled)
