"""Identify the backbone that beacons belong to, by its shapes, which must agree, and a sample of its weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from beacon_lit.arch.checkpoint.backbone import family
from beacon_lit.arch.checkpoint.quantized import is_plain
from beacon_lit.arch.checkpoint.sharded import samples
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.nn.fused import part
from beacon_lit.arch.nn.rope import rope_settings

_SHAPE_FIELDS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "vocab_size",
)  # fmt: skip


def shapes(config: PretrainedConfig) -> dict[str, Any]:
    """Return the fields of a backbone's config that beacons depend on."""
    fields = {name: getattr(config, name, None) for name in _SHAPE_FIELDS}
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = rope_settings(config)["full_attention"]
    return {"family": family(config), **fields, "head_dim": head, "rope_theta": rope["rope_theta"]}


def sample(model: BeaconModel) -> dict[str, list[float]]:
    """Return a few values of a few of the backbone's weights, in bf16, to tell different weights apart.

    Packed weights of a quantised backbone are left out; its embedding and norm are never packed. If weights are spread
    over ranks, every rank must call this function.

    Returns:
        16 to 31 values by the name of the weight, such as "first q_proj"; all values of a smaller weight.
    """
    return few_values(sampled_weights(model))


def sampled_weights(model: BeaconModel) -> dict[str, Tensor]:
    """Return the weights of which `sample` returns values."""
    layers = model.model.layers
    first, _ = part(layers[0].self_attn, "q")  # type: ignore[misc]
    mlp = layers[-1].mlp
    last = getattr(getattr(mlp, "experts", mlp), "down_proj", layers[-1].self_attn.o_proj)
    modules = {
        "embed_tokens": model.model.embed_tokens,
        "first q_proj": first,
        "last down_proj": last,
        "norm": model.model.norm,
    }
    found = {}
    for name, module in modules.items():
        # Experts have one weight for all in place of a module; a norm may have none.
        weight = module if isinstance(module, Tensor) else getattr(module, "weight", None)
        if weight is not None and (weight is module or is_plain(module)):
            found[name] = weight
    return found


def few_values(weights: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Return a few values of each weight, in bf16. If weights are spread over ranks, every rank must call this."""
    return {name: values.tolist() for name, values in samples(weights, 16).items()}


def check_shapes(saved: Mapping[str, Any], config: PretrainedConfig, path: str) -> None:
    """Raise a ValueError unless `config` has the shapes of the backbone in `saved`.

    Args:
        saved: settings of beacons, see `beacons.settings`.
        config: the backbone's config.
        path: where the beacons come from, for the message.
    """
    own = shapes(config)
    for name, value in saved["backbone"]["config"].items():
        if own.get(name) != value:
            raise ValueError(
                f"the beacons in {path} were trained on a backbone with {name}={value!r}; "
                f"this one has {own.get(name)!r}"
            )


def check_backbone(saved: Mapping[str, Any], model: BeaconModel, path: str) -> None:
    """Raise a ValueError unless `model` has the shapes and the weights of the backbone in `saved`.

    Packed weights of a quantised backbone are not compared.

    Args:
        saved: settings of beacons, see `beacons.settings`.
        model: the model.
        path: where the beacons come from, for the message.
    """
    check_shapes(saved, model.config, path)
    own, theirs = sample(model), saved["backbone"]["sample"]
    for name in own.keys() & theirs.keys():
        if not torch.allclose(torch.tensor(own[name]), torch.tensor(theirs[name]), rtol=2e-2, atol=1e-6):
            raise ValueError(
                f"the beacons in {path} were trained on a backbone with other weights ({name} differs); "
                f"allow_other_backbone=True loads them nevertheless"
            )
