"""Identify the model that made a cache, since keys and values of another model would give silently wrong results."""

import json
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.checkpoint.fingerprint import few_values, sampled_weights, shapes
from beacon_lit.arch.checkpoint.sharded import is_mastered
from beacon_lit.arch.core import ATTENTION_CAP, BeaconModel
from beacon_lit.arch.nn.names import is_adapter, is_beacon
from beacon_lit.arch.nn.rope import rotated_layers

Fingerprint = tuple[tuple[str, Any], ...]

_SETTINGS = ("window", "sink", "overlap", "placement", "params")  # the settings that a cache depends on


def fingerprint(model: BeaconModel) -> Fingerprint:
    """Compute a model's fingerprint, or return the last one if no weight has changed since.

    Changes to parameters that FSDP2 or DeepSpeed train cannot be noticed, so their fingerprint is computed at every
    call. If parameters are spread over ranks, every rank must call this function.

    Returns:
        (name, value) pairs: shapes, RoPE, beacon settings, and a few values of a few weights in bf16.
    """
    key = _versions(model)
    if key is None:
        return _compute(model)
    known = model.__dict__.get("_fingerprint")
    if known is None or known[0] != key:
        known = key, _compute(model)
        model.__dict__["_fingerprint"] = known
    return known[1]


def check_cache(cache: BeaconCache, model: BeaconModel) -> None:
    """Raise a ValueError unless `model` can continue from `cache`: same fingerprint, dtype and device."""
    own = fingerprint(model)
    if cache.fingerprint != own:
        ours, theirs = dict(own), dict(cache.fingerprint)
        name = next(name for name in (*ours, *theirs) if ours.get(name) != theirs.get(name))
        raise ValueError(
            f"the cache was made by another model: it has {name}={_short(theirs.get(name))}, this one "
            f"{_short(ours.get(name))}; allowed: a cache of the same backbone, beacons and beacon settings"
        )
    if cache.selects == model.beacon.placing.runs:
        raise ValueError(
            f"the cache has nothing to close its open window with, as placement={model.beacon.placement!r} needs; an "
            f"earlier version wrote it, or it is `cache.visible`; allowed: a cache that a call of this version returned"
        )
    weight = model.model.embed_tokens.weight
    if cache.hidden.device != weight.device:
        raise ValueError(
            f"the cache is on {cache.hidden.device}, the model on {weight.device}: cache.to(device) moves it"
        )
    if cache.hidden.dtype != weight.dtype and not torch.is_autocast_enabled(weight.device.type):
        raise ValueError(f"the cache is {cache.hidden.dtype}, the model {weight.dtype}: cache.to(dtype) converts it")


def _compute(model: BeaconModel) -> Fingerprint:
    settings = {name: getattr(model.beacon, name) for name in _SETTINGS}
    if model.beacon.head_budgets is not None:  # caches written without them have no such entry
        settings["head_budgets"] = model.beacon.head_budgets
    if getattr(model.config, ATTENTION_CAP, None) is not None:
        settings[ATTENTION_CAP] = getattr(model.config, ATTENTION_CAP)
    if model.groups.reaches:
        settings["reaches"] = tuple(model.groups.kinds[group].reach for _, group in model.groups.parts)
    rope = {"rope_parameters": json.dumps(model.config.rope_parameters, sort_keys=True, default=str)}
    if not all(rotated_layers(model.config)):
        rope["rotated_layers"] = json.dumps(rotated_layers(model.config))
    if not model.listed:
        rope["rotation"] = type(model).__name__
    values = few_values({**sampled_weights(model), **dict(_sampled(model))})
    weights = {f"weights of {name}": tuple(few) for name, few in values.items()}
    return tuple({**shapes(model.config), **rope, **settings, **weights}.items())


def _sampled(model: BeaconModel) -> list[tuple[str, Tensor]]:
    """Return some trained parameters by name: the beacon embedding, the own maps of the first and last layer with such
    maps, and the first two and last two tensors of the adapter."""
    named = list(model.named_parameters())
    adapter = [(name, value) for name, value in named if is_adapter(name)]
    own = [(name, value) for name, value in named if is_beacon(name)]
    numbers = [int(name.split(".")[2]) for name, _ in own if name.startswith("model.layers.")]
    layers = tuple(f"model.layers.{i}." for i in {min(numbers), max(numbers)}) if numbers else ()
    beacons = [(name, value) for name, value in own if name.startswith(layers) or "layers" not in name]
    return beacons + adapter[:2] + adapter[-2:]


def _versions(model: BeaconModel) -> tuple[Any, ...] | None:
    """Return a key that changes with every sampled weight and setting; None if changes cannot be noticed."""
    weights = [*sampled_weights(model).values(), *(tensor for _, tensor in _sampled(model))]
    if isinstance(model, FSDPModule) or any(hasattr(tensor, "ds_id") or is_mastered(tensor) for tensor in weights):
        return None  # written through other tensors, with versions of their own
    versions = ((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in weights)
    return model.beacon, *versions


def _short(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
