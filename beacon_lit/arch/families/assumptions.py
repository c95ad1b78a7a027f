"""What every backbone must be like, and one sentence for each way in which an architecture is not."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from beacon_lit.arch.core import ATTENTION_CAP
from beacon_lit.arch.nn.fused import part

_LAYER_KINDS = ("layer_types", "layers_block_type", "block_types")  # names of the field in configs
_ATTENTION = ("full_attention", "sliding_attention", "attention")
_STATES = ("linear_attention", "mamba", "mamba2", "recurrent", "conv", "hybrid", "hybrid_sliding")
_STATE_SIZES = ("state_size", "ssm_state_size", "mamba_d_state", "conv_L_cache", "rescale_every")
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
# Settings that stand for fixed frequencies; others, such as scales that grow with positions, are not known.
_ROPE = (
    "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "low_freq_factor", "truncate",
    "high_freq_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor", "short_factor",
    "long_factor", "partial_rotary_factor",
)  # fmt: skip
_ATTENTION_PARTS = {f"{name}_proj" for name in ("q", "k", "v", "o", "qkv")} | {"q_norm", "k_norm"}


def broken_by_config(config: PretrainedConfig) -> Iterator[str]:
    """Yield sentences about what in a config contradicts the assumptions. No model is needed.

    Args:
        config: the backbone's config.
    """
    if getattr(config, "text_config", None) is not None:
        yield "its config has one for text inside (text_config), beside others such as one for images"
    kinds = {kind for name in _LAYER_KINDS for kind in getattr(config, name, None) or ()}
    if kinds & set(_STATES) or (not kinds and any(getattr(config, name, None) for name in _STATE_SIZES)):
        yield (
            "layers of linear attention, convolution or a state-space model keep one state for all tokens read, not "
            "keys and values of each token, so that nothing of a window can stay as beacons"
        )
    for kind in sorted(kinds - set(_STATES) - set(_ATTENTION)):
        yield f"layers of the kind {kind!r} are not ordinary attention over all tokens before"
    rope = getattr(config, "rope_parameters", None) or {}
    if not rope:
        yield "positions are not by RoPE (no rope_parameters), but memory needs positions that can be set anew"
    nested = [rope] if "rope_type" in rope else list(rope.values())
    if "rope_type" not in rope and not kinds <= set(rope):
        yield f"rope_parameters are for {', '.join(sorted(rope))}, layers of the kinds {', '.join(sorted(kinds))}"
    for name in sorted({name for settings in nested for name in settings or ()} - set(_ROPE)):
        yield f"its rope_parameters have a setting {name}"
    if getattr(config, "clip_qkv", None):
        yield f"clip_qkv={config.clip_qkv} clips queries, keys and values, which nothing here does"
    for name in _SIZES:
        if getattr(config, name, None) is None:
            yield f"its config has no {name}"


def broken_by_model(model: Any) -> Iterator[str]:
    """Yield sentences about what in a model's modules contradicts the assumptions.

    Args:
        model: the plain causal language model, without weights.
    """
    decoder: Any = getattr(model, "model", None)
    for name in ("embed_tokens", "layers", "norm", "rotary_emb"):
        if not hasattr(decoder, name):
            yield f"its decoder has no module model.{name}"
            return
    if type(decoder.embed_tokens) is not nn.Embedding and not hasattr(decoder.embed_tokens, "embed_scale"):
        yield f"its embedding is a {type(decoder.embed_tokens).__name__}, which does more than look vectors up"
    if type(getattr(model, "lm_head", None)) is not nn.Linear:
        yield "its head is not a linear layer lm_head"
    yield from (sentence for layer in decoder.layers for sentence in _broken_by_layer(layer, model.config))
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        yield "it has dropout; allowed: 0 in its config"


def _broken_by_layer(layer: nn.Module, config: Any) -> Iterator[str]:
    attention: Any = getattr(layer, "self_attn", None)
    if attention is None or not hasattr(layer, "mlp"):
        yield f"a layer ({type(layer).__name__}) has no self_attn and mlp"
        return
    cap = getattr(config, ATTENTION_CAP, None)
    for name in ("head_dim", "scaling", "layer_idx", *(() if cap is None else (ATTENTION_CAP,))):
        if not hasattr(attention, name):
            yield f"its attention ({type(attention).__name__}) has no {name}"
            return
    own = {name.partition(".")[0] for name, _ in attention.named_parameters()}
    for name in sorted(own - _ATTENTION_PARTS):
        yield f"its attention ({type(attention).__name__}) has weights of its own, {name}"
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads, "v": config.num_key_value_heads}
    for name in "qkvo":
        found = part(attention, name)
        if found is None:
            yield f"its attention ({type(attention).__name__}) has no projection {name}_proj"
        elif name in heads and found[1].stop - found[1].start != heads[name] * attention.head_dim:
            yield f"{name}_proj of its attention is not heads x head_dim = {heads[name]} x {attention.head_dim} wide"
