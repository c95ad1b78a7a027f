"""Llama 2, 3 and 3.x."""

from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer

from beacon_lit.arch.model import BeaconLM
from beacon_lit.arch.nn.attention import BeaconAttention
from beacon_lit.arch.nn.layer import BeaconLayer


class BeaconLlamaConfig(LlamaConfig):
    """Llama with beacons; `beacon` holds the fields of `BeaconConfig`."""

    model_type = "beacon_llama"
    beacon: dict | None = None


class BeaconLlamaAttention(BeaconAttention, LlamaAttention):
    """Attention of Llama 2, 3 and 3.x."""


class BeaconLlamaLayer(BeaconLayer, LlamaDecoderLayer):
    """A layer whose MLP has own maps for beacons."""


class BeaconLlamaForCausalLM(BeaconLM, LlamaForCausalLM):
    """Llama 2, 3 and 3.x with beacons."""

    config_class = BeaconLlamaConfig
    attention_class = BeaconLlamaAttention
    layer_class = BeaconLlamaLayer
