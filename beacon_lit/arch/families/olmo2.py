"""OLMo 2: norms stand behind the sublayers, and queries and keys are normalised over all heads."""

from torch import Tensor
from transformers import Olmo2Config, Olmo2ForCausalLM
from transformers.models.olmo2.modeling_olmo2 import Olmo2Attention, Olmo2DecoderLayer

from beacon_lit.arch.model import BeaconLM
from beacon_lit.arch.nn.attention import BeaconAttention
from beacon_lit.arch.nn.layer import BeaconLayer


class BeaconOlmo2Config(Olmo2Config):
    """OLMo 2 with beacons; `beacon` holds the fields of `BeaconConfig`."""

    model_type = "beacon_olmo2"
    beacon: dict | None = None


class BeaconOlmo2Attention(BeaconAttention, Olmo2Attention):
    """Attention of OLMo 2."""

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """See `BeaconAttention`. Cos and sin are float32, whatever the dtype of the model."""
        return super().rotate(x, cos, sin).to(x.dtype)

    def normalize(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """See `BeaconAttention`. A norm is over all heads of a token."""
        return self.q_norm(q.flatten(1)).view_as(q), self.k_norm(k.flatten(1)).view_as(k)


class BeaconOlmo2Layer(BeaconLayer, Olmo2DecoderLayer):
    """A layer whose MLP has own maps for beacons."""

    before_attention, after_attention = None, "post_attention_layernorm"
    before_mlp, after_mlp = None, "post_feedforward_layernorm"


class BeaconOlmo2ForCausalLM(BeaconLM, Olmo2ForCausalLM):
    """OLMo 2 with beacons."""

    config_class = BeaconOlmo2Config
    attention_class = BeaconOlmo2Attention
    layer_class = BeaconOlmo2Layer
