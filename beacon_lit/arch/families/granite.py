"""Granite 3.x and later dense models: Llama with multipliers.

The multiplier of attention is its `scaling`; the multiplier of residuals is applied by its layers.
"""

from torch import Tensor
from transformers import GraniteConfig, GraniteForCausalLM
from transformers.models.granite.modeling_granite import GraniteAttention, GraniteDecoderLayer

from beacon_lit.arch.model import BeaconLM
from beacon_lit.arch.nn.attention import BeaconAttention
from beacon_lit.arch.nn.layer import BeaconLayer
from beacon_lit.arch.nn.logits import LogitScale


class BeaconGraniteConfig(GraniteConfig):
    """Granite with beacons; `beacon` holds the fields of `BeaconConfig`."""

    model_type = "beacon_granite"
    beacon: dict | None = None


class BeaconGraniteAttention(BeaconAttention, GraniteAttention):
    """Attention of Granite."""


class BeaconGraniteLayer(BeaconLayer, GraniteDecoderLayer):
    """A layer whose MLP has own maps for beacons."""


class BeaconGraniteForCausalLM(BeaconLM, GraniteForCausalLM):
    """Granite with beacons."""

    config_class = BeaconGraniteConfig
    attention_class = BeaconGraniteAttention
    layer_class = BeaconGraniteLayer

    @property
    def head_scale(self) -> LogitScale:
        """See `BeaconModel`."""
        return LogitScale(self.config.logits_scaling)

    def scale_embeddings(self, embedded: Tensor) -> Tensor:
        """See `BeaconModel`. The embedding of beacons is scaled as well, since it starts from a token's."""
        return embedded * self.config.embedding_multiplier
