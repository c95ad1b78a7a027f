"""A LoRA adapter (arXiv 2106.09685, by the package peft) on projections of the backbone.

Raw tokens go through it, and beacon tokens where they share the backbone's projections (the MLP, by default the output
projection). The beacons' own projections are trained whole and get none.
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
INITIAL = (True, False, "gaussian", "orthogonal")  # others change the backbone's weights
_NOTES = (
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
)  # fmt: skip
NAME = "default"  # peft's


def check_peft(wanted: str) -> None:
    """ValueError if peft, which `wanted` needs, is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise ValueError(f"{wanted} needs the package peft: pip install 'beacon_lit[lora]'")


def settings(model: nn.Module) -> dict[str, Any] | None:
    """The fields of the model's `LoraConfig` that shape its adapter, as JSON has them; None if it has no adapter."""
    configs = getattr(model, "peft_config", None)
    return _as_json(configs[NAME]) if configs else None


def add(model: BeaconModel, config: "LoraConfig") -> None:
    """Put an adapter on the backbone, in the beacons' dtype; it is trained. What else is trained stays as it is.

    Args:
        model: without an adapter.
        config: "all-linear" as `target_modules` stands for every projection of the backbone's layers.

    Raises:
        ValueError: the model has one, or the config asks for what a saved adapter cannot bring back (`SETTINGS` may
            be set), for modules outside the backbone's layers, or for none.
    """
    if settings(model) is not None:
        raise ValueError("the model has an adapter already; allowed: one. Merge it first: lm.merge_adapter()")
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
    model.train(model.training)  # its dropout, too


def ensure(model: BeaconModel, config: Mapping[str, Any], source: str) -> None:
    """`add`, unless the model has this adapter already.

    Args:
        model: the model.
        config: fields of `peft.LoraConfig`, as `settings` gives them.
        source: where it is from, for messages.

    Raises:
        ValueError: peft is not installed, the model has an adapter of other settings; see also `add`.
    """
    check_peft(source)
    from peft import LoraConfig

    own, wanted = settings(model), LoraConfig(**config)
    if own is None:
        add(model, wanted)
    else:
        check_same(own, _as_json(_resolved(model, wanted)), source)


def check_same(own: Mapping[str, Any] | None, other: Mapping[str, Any] | None, source: str) -> None:
    """ValueError unless the settings of two adapters, a model's own and that of `source`, are alike."""
    for name in SETTINGS:
        mine, theirs = (None if each is None else each[name] for each in (own, other))
        if mine != theirs:
            raise ValueError(
                f"{name}={theirs!r} of the adapter of {source} is not allowed; allowed: the model's, {mine!r}"
            )


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within it the model is without its adapter, if it has one."""
    layers = [layer for _, layer in _layers(model) if not layer.disable_adapters]
    trained = [(parameter, parameter.requires_grad) for layer in layers for parameter in layer.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, requires_grad in trained:  # peft switches what is trained, too
            parameter.requires_grad_(requires_grad)


def check_merged(model: nn.Module) -> None:
    """ValueError if the model has an adapter, which a folder of a whole model has no place for."""
    if settings(model) is not None:
        raise ValueError("the model has an adapter, a whole model has none; make it a part of it: lm.merge_adapter()")


def merge(model: BeaconModel) -> None:
    """Add the adapter to the backbone's weights, in their dtype. The backbone has then no name any more.

    Raises:
        ValueError: there is no adapter, a packed backbone, or weights that are not finite.
    """
    if settings(model) is None:
        raise ValueError("the model has no adapter to merge")
    if is_quantized(model):
        raise ValueError(
            f"quantization_config={quantization(model)!r} is not allowed to merge an adapter; allowed: none"
        )
    for _, layer in _layers(model):
        layer.merge(safe_merge=True)
    _unload(model)
    model.config._name_or_path = ""


def _layers(model: nn.Module) -> list[tuple[str, Any]]:
    """Name and module of every projection that has an adapter."""
    if not hasattr(model, "peft_config"):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def _unload(model: BeaconModel) -> None:
    """Take the adapter off; what it has been merged into stays."""
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
                f"{field.name}={value!r} is not allowed; of a LoraConfig may be set: {', '.join(SETTINGS)}"
            )
    if config.init_lora_weights not in INITIAL:
        allowed = ", ".join(map(str, INITIAL))
        raise ValueError(f"init_lora_weights={config.init_lora_weights!r} is not allowed; allowed: {allowed}")


def _check_targets(model: BeaconModel) -> None:
    for name, _ in _layers(model):
        if is_beacon(f".{name}") or not name.startswith("model.layers."):
            raise ValueError(
                f"target_modules names {name}; allowed: projections of the backbone's layers "
                f"({', '.join(_projections(model))}). The beacons' own are trained whole"
            )


def _resolved(model: BeaconModel, config: "LoraConfig") -> "LoraConfig":
    """A copy of the config that spells "all-linear" out."""
    spelled = _projections(model) if config.target_modules == "all-linear" else config.target_modules
    return replace(config, target_modules=spelled)


def _projections(model: BeaconModel) -> list[str]:
    layer = model.model.layers[0]
    kinds = [
        name.removesuffix(".base_layer") for name, module in layer.named_modules() if isinstance(module, nn.Linear)
    ]
    return [name.rpartition(".")[2] for name in kinds if not (is_adapter(f".{name}.") or is_beacon(f".{name}"))]


def _as_json(config: "LoraConfig") -> dict[str, Any]:
    values = {name: getattr(config, name) for name in SETTINGS}
    return {name: sorted(value) if isinstance(value, set) else value for name, value in values.items()}
