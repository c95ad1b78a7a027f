"""Gemma 2: scores of attention and logits are capped softly, and every other layer has a sliding window of raw tokens.

The embedding module scales what it looks up.
"""

from transformers import Gemma2Config, Gemma2ForCausalLM, PretrainedConfig
from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention, Gemma2DecoderLayer

from beacon_lit.arch.core import ATTENTION_CAP, FINAL_CAP
from beacon_lit.arch.model import BeaconLM
from beacon_lit.arch.nn.attention import BeaconAttention
from beacon_lit.arch.nn.layer import BeaconLayer
from beacon_lit.arch.plan.kinds import LayerKind, kinds_of


class BeaconGemma2Config(Gemma2Config):
    """Gemma 2 with beacons; `beacon` holds the fields of `BeaconConfig`."""

    model_type = "beacon_gemma2"
    beacon: dict | None = None


class BeaconGemma2Attention(BeaconAttention, Gemma2Attention):
    """Attention of Gemma 2."""


class BeaconGemma2Layer(BeaconLayer, Gemma2DecoderLayer):
    """A layer whose MLP has own maps for beacons."""

    after_attention = "post_attention_layernorm"
    before_mlp, after_mlp = "pre_feedforward_layernorm", "post_feedforward_layernorm"


class BeaconGemma2ForCausalLM(BeaconLM, Gemma2ForCausalLM):
    """Gemma 2 with beacons."""

    config_class = BeaconGemma2Config
    attention_class = BeaconGemma2Attention
    layer_class = BeaconGemma2Layer
    caps = (ATTENTION_CAP, FINAL_CAP)

    @classmethod
    def layer_kinds(cls, config: PretrainedConfig) -> tuple[LayerKind, ...]:
        """See `BeaconModel`."""
        return kinds_of(config.layer_types, config.sliding_window)
