"""Phi-3 and Phi-4: q, k and v are rows of one projection, gate and up of another, see `nn.fused`.

Models that read more than their original positions by RoPE of the type longrope are refused: its frequencies are
others for long texts than for short ones.
"""

from transformers import Phi3Config, Phi3ForCausalLM
from transformers.models.phi3.modeling_phi3 import Phi3Attention, Phi3DecoderLayer

from beacon_lit.arch.model import BeaconLM
from beacon_lit.arch.nn.attention import BeaconAttention
from beacon_lit.arch.nn.layer import BeaconLayer


class BeaconPhi3Config(Phi3Config):
    """Phi-3 or Phi-4 with beacons; `beacon` holds the fields of `BeaconConfig`."""

    model_type = "beacon_phi3"
    beacon: dict | None = None


class BeaconPhi3Attention(BeaconAttention, Phi3Attention):
    """Attention of Phi-3 and Phi-4, which may rotate only a part of each head (Phi-4 mini)."""


class BeaconPhi3Layer(BeaconLayer, Phi3DecoderLayer):
    """A layer whose MLP has own maps for beacons."""

    activation = "activation_fn"


class BeaconPhi3ForCausalLM(BeaconLM, Phi3ForCausalLM):
    """Phi-3 and Phi-4 with beacons."""

    config_class = BeaconPhi3Config
    attention_class = BeaconPhi3Attention
    layer_class = BeaconPhi3Layer
