"""Make the config and the weights of a Hugging Face model from a GGUF file."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from beacon_lit.arch.checkpoint.gguf_file import GgufFile


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
    fields = dict(
        vocab_size=tensors["token_embd.weight"].shape[0],
        hidden_size=width,
        intermediate_size=value("feed_forward_length"),
        num_hidden_layers=value("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=value("attention.head_count_kv", heads),
        head_dim=value("attention.key_length", value("rope.dimension_count", width // heads)),
        max_position_embeddings=value("context_length"),
        rms_norm_eps=value("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": value("rope.freq_base", 10000.0)},
        tie_word_embeddings="output.weight" not in tensors,
    )
    if architecture == "mistral":
        fields["sliding_window"] = header.metadata.get("mistral.attention.sliding_window")
    return AutoConfig.for_model(architecture, **fields)


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
        own = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if own not in unused or header.tensors[own].shape != tuple(parameter.shape):
            raise ValueError(
                f"{header.path} has no {own or name} of shape {tuple(parameter.shape)}, which the model needs"
            )
        unused.remove(own)
        projection = name.split(".")[-2]
        value = header.tensor(own)
        if architecture == "llama" and projection in heads:
            value = _halves(value, heads[projection])
        weights[name] = value.to(dtype)
    if unused:
        raise ValueError(f"{header.path} has {min(unused)}, which {architecture} does not use; allowed: plain models")
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Reorder a Llama's rows for RoPE: llama.cpp rotates neighbouring dimensions, transformers rotates halves."""
    return weight.view(heads, len(weight) // heads // 2, 2, -1).transpose(1, 2).reshape(weight.shape)
