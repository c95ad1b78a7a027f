"""Define the supported families: for each, a config, an attention class, a layer class and the model class.

The classes are named and spelled out, so that models can be pickled and configs can name their registered model type.
"""

from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralAttention, MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3DecoderLayer

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


class BeaconQwen3Config(Qwen3Config):
    """Qwen3 with beacons; `beacon` holds the fields of `BeaconConfig`."""

    model_type = "beacon_qwen3"
    beacon: dict | None = None


class BeaconQwen3Attention(BeaconAttention, Qwen3Attention):
    """Attention of Qwen3, whose queries and keys are normalised per head before RoPE."""

    def normalize(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """See `BeaconAttention`."""
        return self.q_norm(q), self.k_norm(k)


class BeaconQwen3Layer(BeaconLayer, Qwen3DecoderLayer):
    """A layer whose MLP has own maps for beacons."""


class BeaconQwen3ForCausalLM(BeaconLM, Qwen3ForCausalLM):
    """Qwen3 with beacons."""

    config_class = BeaconQwen3Config
    attention_class = BeaconQwen3Attention
    layer_class = BeaconQwen3Layer


for _model in BeaconLM.families.values():
    AutoConfig.register(_model.config_class.model_type, _model.config_class, exist_ok=True)
    AutoModelForCausalLM.register(_model.config_class, _model, exist_ok=True)
