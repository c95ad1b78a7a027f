"""Define the supported families: for each, a config, an attention class, a layer class and the model class.

The classes are named and spelled out, so that models can be pickled and configs can name their registered model type.
"""

from transformers import AutoConfig, AutoModelForCausalLM
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from beacon_lit.arch.families.gemma2 import BeaconGemma2ForCausalLM
from beacon_lit.arch.families.gemma3 import BeaconGemma3ForCausalLM
from beacon_lit.arch.families.granite import BeaconGraniteForCausalLM
from beacon_lit.arch.families.llama import BeaconLlamaForCausalLM
from beacon_lit.arch.families.mistral import BeaconMistralForCausalLM
from beacon_lit.arch.families.mixtral import BeaconMixtralForCausalLM
from beacon_lit.arch.families.olmo2 import BeaconOlmo2ForCausalLM
from beacon_lit.arch.families.phi3 import BeaconPhi3ForCausalLM
from beacon_lit.arch.families.qwen2 import BeaconQwen2ForCausalLM
from beacon_lit.arch.families.qwen3 import BeaconQwen3ForCausalLM
from beacon_lit.arch.families.qwen3_moe import BeaconQwen3MoeForCausalLM
from beacon_lit.arch.families.smollm3 import BeaconSmolLM3ForCausalLM
from beacon_lit.arch.families.unlisted import model_class
from beacon_lit.arch.model import BeaconLM

__all__ = [
    "BeaconGemma2ForCausalLM", "BeaconGemma3ForCausalLM", "BeaconGraniteForCausalLM", "BeaconLlamaForCausalLM",
    "BeaconMistralForCausalLM", "BeaconMixtralForCausalLM", "BeaconOlmo2ForCausalLM", "BeaconPhi3ForCausalLM",
    "BeaconQwen2ForCausalLM", "BeaconQwen3ForCausalLM", "BeaconQwen3MoeForCausalLM", "BeaconSmolLM3ForCausalLM",
]  # fmt: skip

BeaconLM.unlisted = staticmethod(model_class)
for _name, _model in BeaconLM.families.items():
    _type = _model.config_class.model_type
    AutoConfig.register(_type, _model.config_class, exist_ok=True)
    AutoModelForCausalLM.register(_model.config_class, _model, exist_ok=True)
    # Experts are stored one by one; transformers stacks them on loading, by the name of the type.
    if _conversion := get_checkpoint_conversion_mapping(_name):
        register_checkpoint_conversion_mapping(_type, _conversion, overwrite=True)
