"""Load a model part by part, each spread over ranks as soon as it is read: no rank ever holds the whole."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

import torch
from safetensors import safe_open
from torch import nn
from transformers import GenerationConfig, PretrainedConfig

from beacon_lit.arch.checkpoint.files import as_value_error, weight_files
from beacon_lit.arch.checkpoint.source import Source
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.nn.names import is_beacon

# Spreads the parameters of a module that it has not spread yet over ranks. It is called for every part of a model, and
# last for the model itself.
Sharder = Callable[[nn.Module], None]

M = TypeVar("M", bound=BeaconModel)


def parts(model: BeaconModel) -> Iterator[nn.Module]:
    """What is spread, and gathered when it computes, as one: embedding, layers and head; then the model, for the rest.

    A head that shares its weight with the embedding is left to the model.
    """
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    yield from [] if tied else [model.model.embed_tokens]
    yield from cast(nn.ModuleList, model.model.layers)
    yield from [] if tied else [model.lm_head]
    yield model


def stream(
    model_class: type[M],
    source: Source,
    config: PretrainedConfig,
    dtype: torch.dtype,
    beacon_dtype: torch.dtype | None,
    shard: Sharder,
) -> tuple[M, dict[str, list[str]]]:
    """The model, its parts spread by `shard`. Beacons that are not stored with it start from the backbone.

    Args:
        model_class, config: the model.
        source: where its weights are: safetensors.
        dtype: of the backbone.
        beacon_dtype: of the beacons; None: `dtype`, or the stored one.
        shard: called with every part, see `Sharder`.

    Returns:
        the model, and what a loader of Hugging Face reports: names of "missing_keys" and "unexpected_keys".

    Raises:
        ValueError: no safetensors.
    """
    files = weight_files(source.weights, source.hub)
    with torch.device("meta"):
        model = model_class(config)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # it has buffers that are computed, not loaded
    model.freeze()
    names = {name for name, _ in model.named_parameters()}
    info = {"missing_keys": sorted(names - files.keys()), "unexpected_keys": sorted(files.keys() - names)}
    if any(not is_beacon(name) for name in info["missing_keys"]):
        return model, info
    _fill(model, model.model.beacon_embed_tokens, files, dtype, beacon_dtype)  # it starts from the embedding
    for part in list(parts(model)):
        _fill(model, part, files, dtype, beacon_dtype)
        if info["missing_keys"]:
            model.initialize_beacons(part)
        shard(part)
    with suppress(OSError):
        model.generation_config = GenerationConfig.from_pretrained(source.weights, **source.hub)
    return model, info


def _fill(
    model: BeaconModel, part: nn.Module, files: Mapping[str, Path], dtype: torch.dtype, beacon_dtype: torch.dtype | None
) -> None:
    """Read those of a part's parameters that are not there yet; beacons that are in no file stay as memory is."""
    (prefix,) = (f"{name}." if name else "" for name, module in model.named_modules() if module is part)
    for own_name, parameter in part.named_parameters():
        if not parameter.is_meta:
            continue
        name = prefix + own_name
        wanted = beacon_dtype if is_beacon(name) else dtype
        if name in files:
            with as_value_error(str(files[name])), safe_open(files[name], "pt") as opened:
                value = opened.get_tensor(name)
            value = value.to(wanted or value.dtype)
            if value.shape != parameter.shape:
                raise ValueError(
                    f"{files[name]} has {name} of shape {tuple(value.shape)}; the model's is {tuple(parameter.shape)}"
                )
        else:
            value = torch.empty(parameter.shape, dtype=wanted or dtype)
        owner, _, leaf = own_name.rpartition(".")
        setattr(part.get_submodule(owner), leaf, nn.Parameter(value, parameter.requires_grad))
    model.tie_weights()
