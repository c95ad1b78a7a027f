"""Gemma 3, text models: layers with a sliding window of raw tokens between layers with memory.

Each kind of layers has a RoPE of its own. The embedding module scales what it looks up.
"""

from torch import Tensor
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PretrainedConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3Attention, Gemma3DecoderLayer

from beacon_lit.arch.core import FINAL_CAP
from beacon_lit.arch.model import BeaconLM
from beacon_lit.arch.nn.attention import BeaconAttention
from beacon_lit.arch.nn.layer import BeaconLayer
from beacon_lit.arch.nn.rope import Rope
from beacon_lit.arch.plan.kinds import LayerKind, kinds_of


class BeaconGemma3Config(Gemma3TextConfig):
    """Gemma 3 with beacons; `beacon` holds the fields of `BeaconConfig`."""

    model_type = "beacon_gemma3_text"
    beacon: dict | None = None


class BeaconGemma3Attention(BeaconAttention, Gemma3Attention):
    """Attention of Gemma 3, whose queries and keys are normalised per head before RoPE."""

    def normalize(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """See `BeaconAttention`."""
        return self.q_norm(q), self.k_norm(k)


class BeaconGemma3Layer(BeaconLayer, Gemma3DecoderLayer):
    """A layer whose MLP has own maps for beacons."""

    after_attention = "post_attention_layernorm"
    before_mlp, after_mlp = "pre_feedforward_layernorm", "post_feedforward_layernorm"


class BeaconGemma3ForCausalLM(BeaconLM, Gemma3ForCausalLM):
    """Gemma 3 with beacons."""

    config_class = BeaconGemma3Config
    attention_class = BeaconGemma3Attention
    layer_class = BeaconGemma3Layer
    caps = (FINAL_CAP,)

    @classmethod
    def layer_kinds(cls, config: PretrainedConfig) -> tuple[LayerKind, ...]:
        """See `BeaconModel`."""
        return kinds_of(config.layer_types, config.sliding_window)

    def rope(self, like: Tensor, slots: Tensor, kind: LayerKind) -> Rope:
        """See `BeaconModel`."""
        cos, sin = self.model.rotary_emb(like, slots[None], kind.layer_type)
        return cos[0], sin[0]
