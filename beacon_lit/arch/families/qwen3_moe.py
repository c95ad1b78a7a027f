"""Qwen3-MoE: Qwen3 with experts in place of MLPs.

Where beacon tokens run (placement "interleave" and others), they are routed as raw tokens are: the backbone's router
reads their hidden states and chooses among the same experts. The router and the experts stay frozen, so nothing new has
to be learned through the choice of experts, which has no gradient; gradients reach the beacons' projections through the
chosen experts and their weights. Experts have no projections of their own for beacons: maps of "gate", "up" and "down"
in `BeaconConfig.params` are refused. With placement "select" no beacon passes an MLP, and there is nothing to choose.
The balance of the experts' load is no part of the loss.
"""

from torch import Tensor
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeAttention, Qwen3MoeDecoderLayer

from beacon_lit.arch.model import BeaconLM
from beacon_lit.arch.nn.attention import BeaconAttention
from beacon_lit.arch.nn.layer import BeaconLayer


class BeaconQwen3MoeConfig(Qwen3MoeConfig):
    """Qwen3-MoE with beacons; `beacon` holds the fields of `BeaconConfig`."""

    model_type = "beacon_qwen3_moe"
    beacon: dict | None = None


class BeaconQwen3MoeAttention(BeaconAttention, Qwen3MoeAttention):
    """Attention of Qwen3-MoE, whose queries and keys are normalised per head before RoPE."""

    def normalize(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """See `BeaconAttention`."""
        return self.q_norm(q), self.k_norm(k)


class BeaconQwen3MoeLayer(BeaconLayer, Qwen3MoeDecoderLayer):
    """A layer of the family, since experts have no own maps for beacons."""


class BeaconQwen3MoeForCausalLM(BeaconLM, Qwen3MoeForCausalLM):
    """Qwen3-MoE with beacons."""

    config_class = BeaconQwen3MoeConfig
    attention_class = BeaconQwen3MoeAttention
    layer_class = BeaconQwen3MoeLayer
