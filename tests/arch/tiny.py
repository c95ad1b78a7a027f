"""Tiny random models of every family, with weights large enough that a wrong position or token shows in the logits."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PretrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from beacon_lit import BeaconConfig, BeaconLM

VOCABULARY = 97
CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
DENSE = {"llama": LlamaForCausalLM, "mistral": MistralForCausalLM, "qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM}
FAMILIES = tuple(CONFIGS)


def examples(count: int) -> Callable[[Any], Any]:
    """Run a hypothesis test on `count` examples, of which a quick run takes a share, however long one takes."""
    share = settings.default.max_examples / settings.get_profile("thorough").max_examples
    return settings(max_examples=round(share * count), suppress_health_check=list(HealthCheck))


def hf_config(family: str, **values: Any) -> PretrainedConfig:
    """A family's config: hidden size 32, two layers, 4 query heads on 2 key heads."""
    defaults = {
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
    if family == "mistral":
        defaults["sliding_window"] = None
    return CONFIGS[family](**{**defaults, **values})


def tiny(
    family: str = "qwen2", beacon: BeaconConfig | None = None, *, seed: int = 0, dtype=torch.float32, **values: Any
) -> BeaconLM:
    """A random model in training mode. No two weights are alike: biases, norms and the beacons' copies have noise."""
    torch.manual_seed(seed)
    lm = BeaconLM.from_config(hf_config(family, **values), beacon or BeaconConfig(window=8, ratios=2))
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if name.endswith("bias") or "norm" in name or "beacon" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return lm.to(dtype).train()


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
