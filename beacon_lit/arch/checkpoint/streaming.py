"""Load a model part by part, and spread each part over ranks at once, so that no rank ever holds the whole model."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TypeVar, cast

import torch
from torch import nn
from transformers import GenerationConfig, PretrainedConfig

from beacon_lit.arch.checkpoint.files import weight_files
from beacon_lit.arch.checkpoint.source import Source
from beacon_lit.arch.checkpoint.stored import Stored, stored_parameters
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.nn.names import is_beacon

# A sharding function, which spreads those parameters of a module over ranks that are not spread yet. It is called for
# every part of a model (see `parts`), and for the model itself at the end.
Sharder = Callable[[nn.Module], None]

M = TypeVar("M", bound=BeaconModel)


def parts(model: BeaconModel) -> Iterator[nn.Module]:
    """Yield the parts of a model that are spread, and gathered for computing, as units.

    These are the embedding, each layer, the head, and finally the model itself with all that is left. An embedding and
    a head that share one weight belong to the model.
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
    """Load a model and spread its parts. Beacons that are not stored with the weights start from the backbone.

    Args:
        model_class: the model's class.
        source: where the weights are, as safetensors.
        config: the model's config.
        dtype: dtype of the backbone.
        beacon_dtype: dtype of the beacons; None: the dtype on disk, or `dtype` if they are not stored.
        shard: called with every part, see `Sharder`.

    Returns:
        The model; and "missing_keys" and "unexpected_keys", lists of names, as Hugging Face's loader reports them. If
        weights of the backbone are missing, the model is not loaded.

    Raises:
        ValueError: there are no safetensors, a file is damaged, or a tensor has another shape than the parameter.
    """
    files = weight_files(source.weights, source.hub)
    with torch.device("meta"):
        model = model_class(config)
    stored = stored_parameters(model, files)
    _compute_buffers(model)
    model.freeze()
    names = {name for name, _ in model.named_parameters()}
    info = {"missing_keys": sorted(names - stored.keys()), "unexpected_keys": sorted(stored.keys() - names)}
    if any(not is_beacon(name) for name in info["missing_keys"]):
        return model, info
    _fill(model, model.model.beacon_embed_tokens, stored, dtype, beacon_dtype)  # set from the embedding below
    for part in list(parts(model)):
        _fill(model, part, stored, dtype, beacon_dtype)
        if info["missing_keys"]:
            model.initialize_beacons(part)
        shard(part)
    with suppress(OSError):
        model.generation_config = GenerationConfig.from_pretrained(source.weights, **source.hub)
    return model, info


def _compute_buffers(model: BeaconModel) -> None:
    """Compute the buffers, which are in no file: RoPE's frequencies, and the scale of embeddings in some families."""
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    embedding = model.model.embed_tokens
    for name, buffer in list(embedding.named_buffers()):
        setattr(embedding, name, torch.empty_like(buffer, device="cpu"))
        model._init_weights(embedding)  # transformers; the weights are still on the meta device


def _fill(
    model: BeaconModel,
    part: nn.Module,
    stored: Mapping[str, Stored],
    dtype: torch.dtype,
    beacon_dtype: torch.dtype | None,
) -> None:
    """Read the parameters of a part that are still on the meta device; beacons in no file are left uninitialised."""
    (prefix,) = (f"{name}." if name else "" for name, module in model.named_modules() if module is part)
    for own_name, parameter in part.named_parameters():
        if not parameter.is_meta:
            continue
        name = prefix + own_name
        wanted = beacon_dtype if is_beacon(name) else dtype
        if name in stored:
            value = stored[name].read(name, model)
            value = value.to(wanted or value.dtype)
            if value.shape != parameter.shape:
                own, theirs = tuple(parameter.shape), tuple(value.shape)
                raise ValueError(f"{stored[name].file} has {name} of shape {theirs}; the model's is {own}")
        else:
            value = torch.empty(parameter.shape, dtype=wanted or dtype)
        owner, _, leaf = own_name.rpartition(".")
        setattr(part.get_submodule(owner), leaf, nn.Parameter(value, parameter.requires_grad))
    model.tie_weights()
