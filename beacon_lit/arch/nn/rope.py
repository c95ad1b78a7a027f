"""Rotate queries and keys (RoPE), and tell which RoPE types and how many positions a backbone has."""

from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.llama.modeling_llama import rotate_half

Rope = tuple[Tensor, Tensor]  # cos and sin, each (tokens, H)

ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # frequencies of other types change with the length


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE to (tokens, heads, H), with the backbones' operations, so that results agree bit for bit."""
    return x * cos[:, None] + rotate_half(x) * sin[:, None]


def positions(config: PretrainedConfig) -> int:
    """Position slots that a backbone supports, RoPE scaling included."""
    rope = config.rope_parameters
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    scaled = (
        int(original * rope["factor"]) if rope["rope_type"] == "yarn" else 0
    )  # a Llama-3 config gives its scaled length
    return max(config.max_position_embeddings, scaled)
