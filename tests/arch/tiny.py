"""Tiny random models of every family, with weights large enough that a wrong position or token shows in the logits."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PretrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from beacon_lit import BeaconConfig, BeaconLM

VOCABULARY = 97
CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "granite": (GraniteConfig, GraniteForCausalLM),
    "phi3": (Phi3Config, Phi3ForCausalLM),
    "olmo2": (Olmo2Config, Olmo2ForCausalLM),
    "smollm3": (SmolLM3Config, SmolLM3ForCausalLM),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM),
    "mixtral": (MixtralConfig, MixtralForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "gemma3_text": (Gemma3TextConfig, Gemma3ForCausalLM),
}
CONFIGS = {family: config for family, (config, _) in CLASSES.items()}
DENSE = {family: dense for family, (_, dense) in CLASSES.items()}
ALL = tuple(CLASSES)
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # tested with everything
OTHERS = ALL[len(FAMILIES) :]  # tested once with every part that they run through
EXPERTS = ("qwen3_moe", "mixtral")
SLIDING = ("gemma2", "gemma3_text")  # with layers of two kinds
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
# What sets a family apart is in its config, with values that show when they are left out.
OWN: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "granite": {
        "embedding_multiplier": 3.0, "logits_scaling": 1.7, "residual_multiplier": 0.6, "attention_multiplier": 0.2,
    },
    "phi3": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "smollm3": {"no_rope_layers": [1, 0]},
    # Grouped products, the default, have no float64.
    "qwen3_moe": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True,
        "experts_implementation": "eager",
    },
    "gemma2": {
        "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5, "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5, "query_pre_attn_scalar": 20,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e5},
        },
    },
    "mixtral": {
        "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 16, "experts_implementation": "eager",
    },
}  # fmt: skip


def examples(count: int) -> Callable[[Any], Any]:
    """Run a hypothesis test on `count` examples, of which a quick run takes a share, however long one takes."""
    share = settings.default.max_examples / settings.get_profile("thorough").max_examples
    return settings(max_examples=round(share * count), suppress_health_check=list(HealthCheck))


def hf_config(family: str, **values: Any) -> PretrainedConfig:
    """A family's config: hidden size 32, two layers, 4 query heads on 2 key heads."""
    return CONFIGS[family](**{**SIZES, **copy.deepcopy(OWN.get(family, {})), **values})


def kinds(pattern: str, reach: int) -> dict[str, Any]:
    """Settings of a Gemma with a layer for each letter: s(liding window) or m(emory)."""
    types = ["sliding_attention" if letter == "s" else "full_attention" for letter in pattern]
    return {"layer_types": types, "num_hidden_layers": len(types), "sliding_window": reach}


def tiny(
    family: str = "qwen2", beacon: BeaconConfig | None = None, *, seed: int = 0, dtype=torch.float32, **values: Any
) -> BeaconLM:
    """A random model in training mode. No two weights are alike: biases, norms and the beacons' copies have noise."""
    torch.manual_seed(seed)
    lm = BeaconLM.from_config(
        hf_config(family, **values), beacon or BeaconConfig(window=8, ratios=2, placement="interleave")
    )
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if name.endswith("bias") or "norm" in name or "beacon" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return lm.to(dtype).train()


def attention_of(lm: BeaconLM) -> str:
    """The kernel of `lm.dense`. By itself, transformers 5.17 runs Gemma 2 on sdpa, which ignores the cap."""
    return lm.config._attn_implementation


def tokens(*shape: int, seed: int = 0) -> Tensor:
    """Random token ids of this shape."""
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def gradients(lm: BeaconLM, loss: Tensor, retain: bool = False) -> dict[str, Tensor]:
    """d loss / d parameter of everything that is trained. An unused parameter is an error."""
    trained = {name: parameter for name, parameter in lm.named_parameters() if parameter.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values()), retain_graph=retain), strict=True))


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str = "") -> None:
    """Largest difference at most `tolerance` times the largest expected value (or 1, if that is more)."""
    assert actual.shape == expected.shape, (what, actual.shape, expected.shape)
    actual, expected = actual.detach(), expected.detach()
    if expected.numel():
        scale = max(1.0, float(expected.abs().max()))
        difference = float((actual - expected).abs().max())
        assert difference <= tolerance * scale, f"{what} differs by {difference:.1e}, values up to {scale:.1e}"
