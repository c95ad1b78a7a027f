"""Qwen2 and 2.5."""

from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2DecoderLayer

from beacon_lit.arch.model import BeaconLM
from beacon_lit.arch.nn.attention import BeaconAttention
from beacon_lit.arch.nn.layer import BeaconLayer


class BeaconQwen2Config(Qwen2Config):
    """Qwen2 with beacons; `beacon` holds the fields of `BeaconConfig`."""

    model_type = "beacon_qwen2"
    beacon: dict | None = None


class BeaconQwen2Attention(BeaconAttention, Qwen2Attention):
    """Attention of Qwen2 and 2.5, with biases on q, k and v."""


class BeaconQwen2Layer(BeaconLayer, Qwen2DecoderLayer):
    """A layer whose MLP has own maps for beacons."""


class BeaconQwen2ForCausalLM(BeaconLM, Qwen2ForCausalLM):
    """Qwen2 and 2.5 with beacons."""

    config_class = BeaconQwen2Config
    attention_class = BeaconQwen2Attention
    layer_class = BeaconQwen2Layer
