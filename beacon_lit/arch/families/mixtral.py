"""Mixtral: Mistral with experts in place of MLPs; for beacon tokens see `families.qwen3_moe`."""

from transformers import MixtralConfig, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralAttention, MixtralDecoderLayer

from beacon_lit.arch.model import BeaconLM
from beacon_lit.arch.nn.attention import BeaconAttention
from beacon_lit.arch.nn.layer import BeaconLayer


class BeaconMixtralConfig(MixtralConfig):
    """Mixtral with beacons; `beacon` holds the fields of `BeaconConfig`."""

    model_type = "beacon_mixtral"
    beacon: dict | None = None


class BeaconMixtralAttention(BeaconAttention, MixtralAttention):
    """Attention of Mixtral. A sliding window is not used, since windows see earlier text through memory."""


class BeaconMixtralLayer(BeaconLayer, MixtralDecoderLayer):
    """A layer of the family, since experts have no own maps for beacons."""


class BeaconMixtralForCausalLM(BeaconLM, MixtralForCausalLM):
    """Mixtral with beacons."""

    config_class = BeaconMixtralConfig
    attention_class = BeaconMixtralAttention
    layer_class = BeaconMixtralLayer
