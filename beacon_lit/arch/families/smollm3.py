"""SmolLM3: every fourth layer has no RoPE.

There, memory has no positions: the layer sees which beacons there are, and not in which order.
"""

from torch import Tensor
from transformers import SmolLM3Config, SmolLM3ForCausalLM
from transformers.models.smollm3.modeling_smollm3 import SmolLM3Attention, SmolLM3DecoderLayer

from beacon_lit.arch.model import BeaconLM
from beacon_lit.arch.nn.attention import BeaconAttention
from beacon_lit.arch.nn.layer import BeaconLayer


class BeaconSmolLM3Config(SmolLM3Config):
    """SmolLM3 with beacons; `beacon` holds the fields of `BeaconConfig`."""

    model_type = "beacon_smollm3"
    beacon: dict | None = None


class BeaconSmolLM3Attention(BeaconAttention, SmolLM3Attention):
    """Attention of SmolLM3, in layers with and without RoPE."""

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """See `BeaconAttention`."""
        return super().rotate(x, cos, sin) if self.use_rope else x


class BeaconSmolLM3Layer(BeaconLayer, SmolLM3DecoderLayer):
    """A layer whose MLP has own maps for beacons."""


class BeaconSmolLM3ForCausalLM(BeaconLM, SmolLM3ForCausalLM):
    """SmolLM3 with beacons."""

    config_class = BeaconSmolLM3Config
    attention_class = BeaconSmolLM3Attention
    layer_class = BeaconSmolLM3Layer
