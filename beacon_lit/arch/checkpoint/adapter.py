"""Add a LoRA adapter (arXiv 2106.09685, from the package peft) to projections of the backbone, and remove or merge it.

All tokens that use these projections go through the adapter: raw tokens, and beacon tokens where they share the
backbone's projections (the MLP and, by default, the output projection). The beacons' own projections are trained as a
whole and get no adapter.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.integrations.peft import PeftAdapterMixin

from beacon_lit.arch.checkpoint.quantized import is_quantized, quantization
from beacon_lit.arch.checkpoint.sharded import is_spread
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.nn.names import is_adapter, is_beacon

if TYPE_CHECKING:
    from peft import LoraConfig

SETTINGS = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "init_lora_weights",
)  # fmt: skip
INITIAL = (True, False, "gaussian", "orthogonal")  # other methods change the backbone's weights
_NOTES = (
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
)  # fmt: skip
NAME = "default"  # the name that peft gives to a single adapter


def check_peft(wanted: str) -> None:
    """Raise a ValueError if the package peft is not installed.

    Args:
        wanted: what needs peft, for the message.
    """
    if importlib.util.find_spec("peft") is None:
        raise ValueError(f"{wanted} needs the package peft: pip install 'beacon_lit[lora]'")


def settings(model: nn.Module) -> dict[str, Any] | None:
    """Return the fields `SETTINGS` of the adapter's `LoraConfig`, values as in JSON; None without an adapter."""
    configs = getattr(model, "peft_config", None)
    return _as_json(configs[NAME]) if configs else None


def add(model: BeaconModel, config: "LoraConfig") -> None:
    """Add an adapter to the backbone, in the beacons' dtype, and train the adapter besides what is trained already.

    Args:
        model: a model without an adapter.
        config: the adapter's settings; only the fields `SETTINGS` may differ from peft's defaults, since a
            checkpoint restores no others. `target_modules="all-linear"` means every projection of the backbone's
            layers.

    Raises:
        ValueError: the model has an adapter or is spread over ranks, a setting is not allowed, or `target_modules`
            names modules outside the backbone's layers, or no module.
    """
    if settings(model) is not None:
        raise ValueError("the model has an adapter already; allowed: one. Merge the first one: lm.merge_adapter()")
    if is_spread(model):
        raise ValueError("an adapter is not allowed on a model that is spread over ranks; allowed: DDP, ZeRO stage 2")
    _check(config)
    config = _resolved(model, config)
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        PeftAdapterMixin.add_adapter(model, config)
        _check_targets(model)
    except Exception:
        _unload(model)
        raise
    finally:
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.to(model.model.beacon_embed_tokens.weight.dtype)
    model.train(model.training)  # sets the mode of the adapter's dropout, too


def ensure(model: BeaconModel, config: Mapping[str, Any], source: str) -> None:
    """Add an adapter, unless the model has an adapter with these settings already.

    Args:
        model: the model.
        config: fields of `peft.LoraConfig`, as `settings` returns them.
        source: where the settings come from, for messages.

    Raises:
        ValueError: peft is not installed, or the model has an adapter with other settings; see also `add`.
    """
    check_peft(source)
    from peft import LoraConfig

    own, wanted = settings(model), LoraConfig(**config)
    if own is None:
        add(model, wanted)
    else:
        check_same(own, _as_json(_resolved(model, wanted)), source)


def check_same(own: Mapping[str, Any] | None, other: Mapping[str, Any] | None, source: str) -> None:
    """Raise a ValueError unless two adapters, the model's and the one of `source`, have the same settings.

    Args:
        own: settings of the model's adapter; None without an adapter.
        other: settings of the other adapter; None without an adapter.
        source: where the other adapter comes from, for the message.
    """
    for name in SETTINGS:
        mine, theirs = (None if each is None else each[name] for each in (own, other))
        if mine != theirs:
            raise ValueError(
                f"{name}={theirs!r} of the adapter of {source} is not allowed; allowed: the model's, {mine!r}"
            )


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Switch the model's adapter off within this context, if there is one."""
    layers = [layer for _, layer in _layers(model) if not layer.disable_adapters]
    trained = [(parameter, parameter.requires_grad) for layer in layers for parameter in layer.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, requires_grad in trained:  # peft also changes requires_grad
            parameter.requires_grad_(requires_grad)


def check_merged(model: nn.Module) -> None:
    """Raise a ValueError if the model has an adapter, which the folder of a whole model cannot hold."""
    if settings(model) is not None:
        raise ValueError("an adapter cannot be saved with a whole model; merge it first: lm.merge_adapter()")


def merge(model: BeaconModel) -> None:
    """Add the adapter to the backbone's weights, in their dtype, and remove the adapter.

    The backbone then has no name, since its weights are no longer those of the checkpoint.

    Raises:
        ValueError: the model has no adapter, the backbone is quantised, or merged weights are non-finite.
    """
    if settings(model) is None:
        raise ValueError("the model has no adapter to merge")
    if is_quantized(model):
        raise ValueError(
            f"quantization_config={quantization(model)!r} is not allowed for merging an adapter: nothing can be added "
            f"to packed weights; allowed: none"
        )
    for _, layer in _layers(model):
        layer.merge(safe_merge=True)
    _unload(model)
    model.config._name_or_path = ""


def _layers(model: nn.Module) -> list[tuple[str, Any]]:
    """Return the name and the module of every projection with an adapter."""
    if not hasattr(model, "peft_config"):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def _unload(model: BeaconModel) -> None:
    """Remove the adapter, and keep the projections, merged or not."""
    for name, layer in _layers(model):
        model.set_submodule(name, layer.get_base_layer())
    model._hf_peft_config_loaded = False
    if hasattr(model, "peft_config"):
        del model.peft_config


def _check(config: "LoraConfig") -> None:
    plain = type(config)()
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in (*SETTINGS, *_NOTES) and value != getattr(plain, field.name):
            raise ValueError(
                f"{field.name}={value!r} is not allowed: a checkpoint does not restore it; "
                f"allowed fields of a LoraConfig: {', '.join(SETTINGS)}"
            )
    if config.init_lora_weights not in INITIAL:
        allowed = ", ".join(map(str, INITIAL))
        raise ValueError(f"init_lora_weights={config.init_lora_weights!r} is not allowed; allowed: {allowed}")


def _check_targets(model: BeaconModel) -> None:
    for name, _ in _layers(model):
        if is_beacon(f".{name}") or not name.startswith("model.layers."):
            raise ValueError(
                f"target_modules names {name}; allowed: projections of the backbone's layers "
                f"({', '.join(_projections(model))}). The beacons' own projections are trained as a whole"
            )


def _resolved(model: BeaconModel, config: "LoraConfig") -> "LoraConfig":
    """Return a copy of the config with the names of the projections in place of "all-linear"."""
    names = _projections(model) if config.target_modules == "all-linear" else config.target_modules
    return replace(config, target_modules=names)


def _projections(model: BeaconModel) -> list[str]:
    """Return the names of a layer's projections, e.g. "q_proj", without those of beacons and adapter."""
    layer = model.model.layers[0]
    names = [
        name.removesuffix(".base_layer") for name, module in layer.named_modules() if isinstance(module, nn.Linear)
    ]
    return [name.rpartition(".")[2] for name in names if not (is_adapter(f".{name}.") or is_beacon(f".{name}"))]


def _as_json(config: "LoraConfig") -> dict[str, Any]:
    values = {name: getattr(config, name) for name in SETTINGS}
    return {name: sorted(value) if isinstance(value, set) else value for name, value in values.items()}
