"""What `arch` takes for granted about transformers. A failure here after an upgrade says what has changed."""

import importlib
import inspect
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn
from transformers import AutoConfig, PretrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import rotate_half

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.nn.rope import ROPE_TYPES
from tests.arch.tiny import ALL, DENSE, EXPERTS, OWN, SLIDING, hf_config, tokens

BEACON = BeaconConfig(window=8, ratios=2)
WIDE = {family: {"sliding_window": 100} for family in SLIDING}  # without a mask of its own
pytestmark = pytest.mark.parametrize("family", ALL)


def modeling(family: str) -> ModuleType:
    name = module_name(family)
    return importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def dense(family: str, **values: Any) -> nn.Module:
    torch.manual_seed(0)
    return DENSE[family](hf_config(family, **values))


def module_name(family: str) -> str:
    """The folder of a family in transformers."""
    return family.removesuffix("_text")


def ropes(family: str, model: nn.Module) -> dict[str, Any]:
    """RoPE of each kind of layers, called with values and slots."""
    rope = model.model.rotary_emb
    if family != "gemma3_text":
        return {"": rope}
    return {kind: partial(rope, layer_type=kind) for kind in ("sliding_attention", "full_attention")}


def test_parts_have_their_names(family: str) -> None:
    model = dense(family)
    scaled = {"gemma2": "Gemma2TextScaledWordEmbedding", "gemma3_text": "Gemma3TextScaledWordEmbedding"}
    embedding = getattr(modeling(family), scaled[family]) if family in scaled else nn.Embedding
    assert type(model.model.embed_tokens) is embedding and type(model.lm_head) is nn.Linear
    assert model.lm_head.bias is None
    assert callable(model.model.norm) and callable(model.model.rotary_emb)
    for layer in model.model.layers:
        before = "post_feedforward_layernorm" if family == "olmo2" else "input_layernorm"
        assert {"self_attn", "mlp", before, "post_attention_layernorm"} <= dict(layer.named_children()).keys()
        attention = layer.self_attn
        assert f"{type(attention).__name__.lower()}" == f"{module_name(family).replace('_', '')}attention"
        scaling = {"granite": OWN["granite"]["attention_multiplier"], **dict.fromkeys(SLIDING, 20**-0.5)}
        assert attention.head_dim == 8 and attention.scaling == scaling.get(family, 8**-0.5)
        assert getattr(attention, "attn_logit_softcapping", None) == (2.0 if family == "gemma2" else None)
        for name in ("qkv", "o") if family == "phi3" else "qkvo":
            projection = getattr(attention, f"{name}_proj")
            assert type(projection) is nn.Linear
            assert (projection.bias is not None) == (family == "qwen2" and name != "o")
        sizes = {"qwen3": 8, "qwen3_moe": 8, "olmo2": 32, "gemma3_text": 8}
        assert hasattr(attention, "q_norm") == hasattr(attention, "k_norm") == (family in sizes)
        assert family not in sizes or len(attention.q_norm.weight) == sizes[family]
        assert hasattr(layer.mlp, "experts") == (family in EXPERTS)


def test_attention_is_called_with_these_arguments_and_returns_a_pair(family: str) -> None:
    parameters = inspect.signature(type(dense(family).model.layers[0].self_attn).forward).parameters
    assert {"hidden_states", "position_embeddings", "attention_mask"} <= parameters.keys()
    assert {"past_key_values", "cache"} & parameters.keys()  # the new name is that of transformers 5.24
    assert any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def test_a_layer_passes_unknown_arguments_on_to_its_attention(family: str) -> None:
    model, seen = dense(family), []
    layer = model.model.layers[0]

    def attention(hidden_states: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, None]:
        seen.append(kwargs)
        return torch.zeros_like(hidden_states), None

    layer.self_attn.forward = attention
    x, rope, step = torch.randn(1, 5, 32), (torch.zeros(1, 5, 8),) * 2, object()
    out = layer(x, attention_mask=None, position_embeddings=rope, beacon=step)
    assert isinstance(out, torch.Tensor)
    assert seen[0]["beacon"] is step and seen[0]["position_embeddings"] is rope
    if family == "olmo2":
        expected = x + layer.post_feedforward_layernorm(layer.mlp(x))  # the norm of zeros is zero
    elif family in SLIDING:
        expected = x + layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(x)))
    else:
        factor = OWN["granite"]["residual_multiplier"] if family == "granite" else 1.0
        expected = x + factor * layer.mlp(layer.post_attention_layernorm(x))
    torch.testing.assert_close(out, expected)


def test_a_layer_checkpoints_itself(family: str) -> None:
    model = dense(family).train()
    assert all(isinstance(layer, GradientCheckpointingLayer) for layer in model.model.layers)
    assert not any(layer.gradient_checkpointing for layer in model.model.layers)
    assert callable(model._set_gradient_checkpointing)
    calls = []

    def function(forward: Any, *args: Any) -> torch.Tensor:
        calls.append(forward)
        return forward(*args)

    model._set_gradient_checkpointing(True, function)
    assert all(layer.gradient_checkpointing for layer in model.model.layers)
    model.model.layers[1].gradient_checkpointing = False
    model(tokens(1, 5))
    assert len(calls) == 1
    model.eval()(tokens(1, 5))
    assert len(calls) == 1


def test_rope_takes_slots_and_gives_cos_and_sin(family: str) -> None:
    slots = torch.tensor([[3, 0, 3, 500]])
    for kind, rope in ropes(family, dense(family)).items():
        cos, sin = rope(torch.zeros(1, dtype=torch.float64), slots)
        size = 4 if family == "phi3" else 8  # of which half turns
        dtype = torch.float32 if family == "olmo2" else torch.float64
        assert cos.shape == sin.shape == (1, 4, size) and cos.dtype == sin.dtype == dtype
        settings = hf_config(family).rope_parameters
        settings = settings.get(kind, settings)
        angle = slots[0, :, None] * settings["rope_theta"] ** (-torch.arange(0, size, 2) / size)
        angle = angle / settings.get("factor", 1.0)
        torch.testing.assert_close(cos[0].float(), torch.cat([angle, angle], -1).cos(), atol=1e-4, rtol=0)
        torch.testing.assert_close(sin[0].float(), torch.cat([angle, angle], -1).sin(), atol=1e-4, rtol=0)


def test_rotation_is_the_familys_to_the_bit(family: str) -> None:
    module, attention = modeling(family), BeaconLM.from_config(hf_config(family), BEACON).model.layers[0].self_attn
    for dtype in (torch.float32, torch.bfloat16):
        q, k = torch.randn(2, 7, 4, 8, dtype=dtype)
        cos, sin = torch.randn(2, 7, 4 if family == "phi3" else 8)
        if family != "olmo2":
            cos, sin = cos.to(dtype), sin.to(dtype)
        expected = module.apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=1)
        for x, turned in zip((q, k), expected, strict=True):
            assert torch.equal(attention.rotate(x, cos, sin), turned) and turned.dtype == dtype
    assert inspect.getsource(module.rotate_half) == inspect.getsource(rotate_half)


def test_the_model_is_embedding_layers_norm_and_head(family: str) -> None:
    """Nothing else, such as dropout, happens between ids and logits but multipliers of Granite and Gemma, and caps."""
    model, ids, own = dense(family, **WIDE.get(family, {})), tokens(1, 9), OWN["granite"] if family == "granite" else {}
    x = model.model.embed_tokens(ids) * own.get("embedding_multiplier", 1.0)
    if family in SLIDING:
        assert torch.equal(x, model.model.embed_tokens.weight[ids] * torch.tensor(32**0.5))
    found = {kind: rope(x, torch.arange(9)[None]) for kind, rope in ropes(family, model).items()}
    # Attention written out, which Gemma 2 has for its cap, is not causal by itself.
    mask = torch.full((9, 9), torch.finfo(x.dtype).min).triu(1)[None, None] if family == "gemma2" else None
    for layer in model.model.layers:
        kind = layer.self_attn.layer_type if len(found) > 1 else ""
        x = layer(x, attention_mask=mask, position_embeddings=found[kind])
    logits = model.lm_head(model.model.norm(x)) / own.get("logits_scaling", 1.0)
    if family == "gemma2":
        logits = torch.tanh(logits / 3.0) * 3.0
    assert torch.equal(logits, model(ids).logits)


def test_rope_settings_are_in_one_place(family: str) -> None:
    settings = hf_config(family).rope_parameters
    for kind, rope in settings.items() if family == "gemma3_text" else [("", settings)]:
        assert rope["rope_type"] == ("linear" if kind == "full_attention" else "default") and rope["rope_theta"] > 0
    assert set(ROPE_TYPES) - {"default"} <= ROPE_INIT_FUNCTIONS.keys()
    assert {"dynamic", "longrope"} <= ROPE_INIT_FUNCTIONS.keys()


@pytest.mark.parametrize("rope", ["linear", "llama3", "yarn"])
def test_frequencies_of_allowed_types_do_not_depend_on_the_length(family: str, rope: str) -> None:
    values = {"rope_type": rope, "factor": 4.0, "rope_theta": 1e4}
    if rope != "linear":
        values["original_max_position_embeddings"] = 32
    if rope == "llama3":
        values |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if family == "phi3":  # has no type but longrope, which is refused
        with pytest.raises((StrictDataclassClassValidationError, KeyError), match="longrope"):
            hf_config(family, rope_parameters=values)
        return
    nested = {"sliding_attention": {"rope_type": "default", "rope_theta": 1e3}, "full_attention": values}
    model = dense(family, rope_parameters=nested if family == "gemma3_text" else values)
    embedding = ropes(family, model)["full_attention" if family == "gemma3_text" else ""]
    name = "full_attention_inv_freq" if family == "gemma3_text" else "inv_freq"
    before = getattr(model.model.rotary_emb, name).clone()
    short = embedding(torch.zeros(1), torch.arange(10)[None])[0]
    long = embedding(torch.zeros(1), torch.arange(5000)[None])[0]
    assert torch.equal(getattr(model.model.rotary_emb, name), before) and torch.equal(long[:, :10], short)


def test_configs_round_trip_through_dicts(family: str) -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4}
    config = hf_config(family, **{} if family in ("phi3", "gemma3_text") else {"rope_parameters": rope})
    values = config.to_dict()
    again = type(config).from_dict(values)
    assert values["model_type"] == family and again.rope_parameters == config.rope_parameters
    assert again.to_dict() == values


def test_unknown_fields_of_a_config_survive(family: str, tmp_path: Any) -> None:
    """Published checkpoints keep their settings in `beacon_*` fields of a plain config.json."""
    config: PretrainedConfig = hf_config(family)
    config.beacon_window = 8
    config.save_pretrained(tmp_path)
    again, rest = AutoConfig.from_pretrained(tmp_path, return_unused_kwargs=True, max_position_embeddings=64, other=1)
    assert again.beacon_window == 8 and again.to_dict()["beacon_window"] == 8
    assert again.max_position_embeddings == 64 and rest == {"other": 1}
