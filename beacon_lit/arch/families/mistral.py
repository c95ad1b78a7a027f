"""Mistral."""

from transformers import MistralConfig, MistralForCausalLM
from transformers.models.mistral.modeling_mistral import MistralAttention, MistralDecoderLayer

from beacon_lit.arch.model import BeaconLM
from beacon_lit.arch.nn.attention import BeaconAttention
from beacon_lit.arch.nn.layer import BeaconLayer


class BeaconMistralConfig(MistralConfig):
    """Mistral with beacons; `beacon` holds the fields of `BeaconConfig`."""

    model_type = "beacon_mistral"
    beacon: dict | None = None


class BeaconMistralAttention(BeaconAttention, MistralAttention):
    """Attention of Mistral. Its sliding window is not used, since windows see earlier text through memory."""


class BeaconMistralLayer(BeaconLayer, MistralDecoderLayer):
    """A layer whose MLP has own maps for beacons."""


class BeaconMistralForCausalLM(BeaconLM, MistralForCausalLM):
    """Mistral with beacons."""

    config_class = BeaconMistralConfig
    attention_class = BeaconMistralAttention
    layer_class = BeaconMistralLayer
