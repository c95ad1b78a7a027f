"""Qwen3."""

from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3DecoderLayer

from beacon_lit.arch.model import BeaconLM
from beacon_lit.arch.nn.attention import BeaconAttention
from beacon_lit.arch.nn.layer import BeaconLayer


class BeaconQwen3Config(Qwen3Config):
    """Qwen3 with beacons; `beacon` holds the fields of `BeaconConfig`."""

    model_type = "beacon_qwen3"
    beacon: dict | None = None


class BeaconQwen3Attention(BeaconAttention, Qwen3Attention):
    """Attention of Qwen3, whose queries and keys are normalised per head before RoPE."""

    def normalize(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """See `BeaconAttention`."""
        return self.q_norm(q), self.k_norm(k)


class BeaconQwen3Layer(BeaconLayer, Qwen3DecoderLayer):
    """A layer whose MLP has own maps for beacons."""


class BeaconQwen3ForCausalLM(BeaconLM, Qwen3ForCausalLM):
    """Qwen3 with beacons."""

    config_class = BeaconQwen3Config
    attention_class = BeaconQwen3Attention
    layer_class = BeaconQwen3Layer
