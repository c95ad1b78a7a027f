"""Make the config and the weights of a Hugging Face model from a GGUF file."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from beacon_lit.arch.checkpoint.gguf_file import GgufFile

# Architectures as `general.architecture` spells them, and the types of models that they are.
ARCHITECTURES = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "phi3": "phi3",
    "qwen3moe": "qwen3_moe",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}
_GEMMA_27B = {"gemma2": 46, "gemma3": 62}  # layers; llama.cpp scales the queries of these models in another way


def gguf_config(header: GgufFile) -> PretrainedConfig:
    """Return the model's config. Where a file leaves a value out, the defaults are llama.cpp's."""
    architecture, tensors = header.metadata["general.architecture"], header.tensors

    def value(name: str, default: Any = None) -> Any:
        found = header.metadata.get(f"{architecture}.{name}", default)
        if found is None:
            raise ValueError(f"{header.path} is not a whole GGUF model file (no {architecture}.{name})")
        return found

    if "token_embd.weight" not in tensors:
        raise ValueError(f"{header.path} holds a vocabulary without a model; allowed: a model's file")
    heads, width = value("attention.head_count"), value("embedding_length")
    rotated = value("rope.dimension_count", width // heads)
    size = value("attention.key_length", width // heads if architecture == "phi3" else rotated)
    fields = dict(
        vocab_size=tensors["token_embd.weight"].shape[0],
        hidden_size=width,
        intermediate_size=value("feed_forward_length"),
        num_hidden_layers=value("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=value("attention.head_count_kv", heads),
        head_dim=size,
        max_position_embeddings=value("context_length"),
        rms_norm_eps=value("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": value("rope.freq_base", 10000.0)},
        tie_word_embeddings="output.weight" not in tensors,
    )
    if architecture in ("mistral", "phi3"):
        fields["sliding_window"] = header.metadata.get(f"{architecture}.attention.sliding_window") or None
    if architecture == "phi3":
        fields["rope_parameters"]["partial_rotary_factor"] = rotated / size
    if architecture == "qwen3moe":
        fields |= dict(
            num_experts=value("expert_count"),
            num_experts_per_tok=value("expert_used_count"),
            moe_intermediate_size=value("expert_feed_forward_length"),
            norm_topk_prob=True,  # llama.cpp computes it so
        )
    if architecture in _GEMMA_27B:
        by_width = value("block_count") == _GEMMA_27B[architecture]
        size = value("attention.key_length", 256)
        fields |= dict(head_dim=size, query_pre_attn_scalar=width // heads if by_width else size)
        fields |= (_gemma2 if architecture == "gemma2" else _gemma3)(value, header.metadata)
    return AutoConfig.for_model(ARCHITECTURES[architecture], **fields)


def _gemma2(value: Callable[..., Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of Gemma 2 alone. As in llama.cpp, every second layer is global."""
    return dict(
        sliding_window=value("attention.sliding_window", 4096),
        attn_logit_softcapping=value("attn_logit_softcapping", 50.0),
        final_logit_softcapping=value("final_logit_softcapping", 30.0),
    )


def _gemma3(value: Callable[..., Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of Gemma 3 alone. As in llama.cpp, every sixth layer is global, and RoPE is scaled there."""
    scaled = metadata.get("gemma3.rope.scaling.type", "none") == "linear"
    scaling = {"rope_type": "linear", "factor": value("rope.scaling.factor")} if scaled else {"rope_type": "default"}
    return dict(
        sliding_window=value("attention.sliding_window"),
        rope_parameters={
            "full_attention": {**scaling, "rope_theta": value("rope.freq_base", 1e6)},
            "sliding_attention": {"rope_type": "default", "rope_theta": value("rope.freq_base_swa", 1e4)},
        },
        final_logit_softcapping=metadata.get("gemma3.final_logit_softcapping"),
    )


def fill(model: PreTrainedModel, header: GgufFile, dtype: torch.dtype) -> None:
    """Read the weights of a model that is on the meta device.

    Raises:
        ValueError: the file lacks a weight, or has one that the model does not use.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    config, architecture = model.config, header.metadata["general.architecture"]
    kind = "llama" if architecture == "mistral" else architecture  # the names of a Mistral's tensors are a Llama's
    number = next(number for number, name in MODEL_ARCH_NAMES.items() if name == kind)
    names = get_tensor_name_map(number, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    weights, unused = {}, set(header.tensors)
    for name, parameter in model.named_parameters():
        owns = [names.get_name(part, try_suffixes=(".weight", ".bias")) or part for part in _parts(name)]
        if not unused.issuperset(owns) or _shape(header, owns) != tuple(parameter.shape):
            raise ValueError(f"{header.path} has no {owns[0]} of shape {tuple(parameter.shape)}, which the model needs")
        unused.difference_update(owns)
        projection = name.split(".")[-2]
        value = torch.cat([header.tensor(own) for own in owns], -2) if len(owns) > 1 else header.tensor(owns[0])
        if architecture == "llama" and projection in heads:
            value = _halves(value, heads[projection])
        if architecture in _GEMMA_27B and value.ndim == 1:  # norms, which transformers multiplies by 1 + weight
            value = value - 1.0
        weights[name] = value.to(dtype)
    if unused:
        raise ValueError(f"{header.path} has {min(unused)}, which {architecture} does not use; allowed: plain models")
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()


def _parts(name: str) -> list[str]:
    """Return the names under which a parameter is stored: the gate and up projections of experts are apart in files."""
    if not name.endswith((".experts.gate_up_proj", ".experts.down_proj")):
        return [name]
    experts, _, projection = name.rpartition(".")
    return [f"{experts}.{part}.weight" for part in projection.replace("gate_up_proj", "gate_proj up_proj").split()]


def _shape(header: GgufFile, owns: list[str]) -> tuple[int, ...]:
    """Return the shape of stored tensors, put together by their rows."""
    first, *others = (header.tensors[own].shape for own in owns)
    return (*first[:-2], first[-2] + sum(shape[-2] for shape in others), first[-1]) if others else first


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Reorder a Llama's rows for RoPE: llama.cpp rotates neighbouring dimensions, transformers rotates halves."""
    return weight.view(heads, len(weight) // heads // 2, 2, -1).transpose(1, 2).reshape(weight.shape)
