"""Load a beacon model from wherever its weights are."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from beacon_lit.arch.checkpoint.backbone import beacon_model
from beacon_lit.arch.checkpoint.beacons import put_beacons
from beacon_lit.arch.checkpoint.files import as_value_error, beacon_tensors
from beacon_lit.arch.checkpoint.options import as_dtype, check_devices, sort_options
from beacon_lit.arch.checkpoint.quantized import dequantized_projections, is_wide, quantization
from beacon_lit.arch.checkpoint.source import Source, config_settings
from beacon_lit.arch.checkpoint.streaming import Sharder, parts, stream
from beacon_lit.arch.config import BeaconConfig
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.nn.names import check_names, is_beacon

M = TypeVar("M", bound=BeaconModel)


def from_config(
    families: Mapping[str, type[M]],
    hf_config: PretrainedConfig,
    beacon: BeaconConfig | None,
    attn: str,
    shard: Sharder | None,
) -> M:
    """Make a model with random weights; see `BeaconLM.from_config`. `families` has the model class of each."""
    beacon = beacon or config_settings(hf_config) or BeaconConfig()
    model_class, config = beacon_model(families, hf_config, beacon, attn)
    model = model_class(config)
    model.attn = attn
    for part in parts(model):
        model.initialize_beacons(part)
        if shard is not None:
            shard(part)
    return model


def load(
    families: Mapping[str, type[M]],
    path: str,
    beacon: BeaconConfig | None,
    attn: str,
    *,
    backbone: str | None = None,
    beacon_dtype: torch.dtype | str | None = None,
    allow_other_backbone: bool = False,
    config: PretrainedConfig | str | None = None,
    shard: Sharder | None = None,
    **options: Any,
) -> M:
    """Load a beacon model.

    Args:
        families: model class by architecture.
        path: one of
            - a hub id or a folder of a plain backbone: beacons start from its projections;
            - a GGUF file of one, dequantised (converted once, into a cache folder);
            - a published beacon checkpoint: `beacon_*` fields in config.json, `beacon_*` tensors among the weights;
            - a hub id or a folder of ours, with beacons alone (the backbone is loaded from where it was) or with
              everything;
            - a training checkpoint (`.ckpt`).
        beacon: settings; default: the checkpoint's own, else `BeaconConfig()`.
        attn: attention kernel.
        backbone: where the backbone of a beacons-only folder is now.
        beacon_dtype: dtype of the beacon parameters, e.g. float32 for training; "auto": that which they are stored
            in; default: that of the backbone.
        allow_other_backbone: put beacons on a backbone of the same shape but with other weights.
        config: config of the model, as AutoModelForCausalLM passes it. For beacons alone, what in it differs from
            their own config.json changes the backbone's.
        shard: spreads each part of the model over ranks as soon as it is read, see `streaming.Sharder`; every rank must
            call this function then, and of the loader's options `dtype` alone is allowed.
        options: `dtype`, `device_map` (one device), `quantization_config`, `revision`, `token`, `cache_dir`,
            `local_files_only`, `subfolder` and others of Hugging Face's `from_pretrained` (`options.py` lists them),
            and fields of the backbone's config (`rope_parameters=...`). For beacons alone they are the backbone's.

    Raises:
        ValueError: no such checkpoint, an architecture or setting that is not allowed (before weights are read), a
            missing or truncated weight file, beacons of another backbone, or of other projections than `beacon.params`,
            a model that does not fit on one device, or a quantisation that would pack the beacons.
    """
    wanted = None if beacon_dtype is None else as_dtype("beacon_dtype", beacon_dtype)
    hub, loader, fields = sort_options(options)
    source = Source.of(str(path), backbone, hub)
    hf_config, own = source.read_config(config, fields)
    model_class, hf_config = beacon_model(families, hf_config, beacon or own or BeaconConfig(), attn)
    stored = source.read_beacons()
    if shard is None:
        model = _load_whole(model_class, source, hf_config, loader, wanted, stored)
    else:
        model = _load_parts(model_class, source, hf_config, loader, wanted, stored, shard)
    model.attn = attn
    if source.saved is not None:
        put_beacons(model, source.path, source.saved, stored, allow_other_backbone)
    return model


def _load_whole(
    model_class: type[M],
    source: Source,
    config: PretrainedConfig,
    loader: Mapping[str, Any],
    beacon_dtype: torch.dtype | str | None,
    stored: Mapping[str, Tensor],
) -> M:
    """The model on one device; its beacons are those stored with its backbone, or start from that."""
    model, has_beacons = _read_model(model_class, source, config, loader)
    model.freeze()
    if has_beacons and source.saved is None and beacon_dtype is not None:
        stored = beacon_tensors(source.weights, source.hub)  # read once more: not rounded to the backbone's dtype
    if beacon_dtype is not None:
        _cast_beacons(model, beacon_dtype, stored)
    if has_beacons:
        model.load_state_dict(stored, strict=False)
    elif source.saved is None:
        with dequantized_projections(model):
            model.initialize_beacons()
    return model


def _load_parts(
    model_class: type[M],
    source: Source,
    config: PretrainedConfig,
    loader: Mapping[str, Any],
    beacon_dtype: torch.dtype | str | None,
    stored: Mapping[str, Tensor],
    shard: Sharder,
) -> M:
    """The model spread over ranks; its beacons are those stored with its backbone, or start from that."""
    for name in loader.keys() - {"dtype"}:
        raise ValueError(f"{name}={loader[name]!r} is not allowed where a strategy shards the model; allowed: none")
    dtype: Any = loader.get("dtype", "auto")
    if dtype == "auto":
        dtype = as_dtype("dtype", config.dtype or "float32")
    of_beacons: Any = dtype if beacon_dtype is None else beacon_dtype
    if beacon_dtype == "auto":
        of_beacons = next(iter(stored.values())).dtype if stored else None
    model, info = stream(model_class, source, config, dtype, of_beacons, shard)
    _check_keys(model, info, source.weights)
    return model


def _read_model(
    model_class: type[M], source: Source, config: PretrainedConfig, loader: Mapping[str, Any]
) -> tuple[M, bool]:
    """The model with what weights there are, and whether there were beacons among them."""
    with as_value_error(source.label), _quiet():
        model, info = PreTrainedModel.from_pretrained.__func__(  # type: ignore[attr-defined]
            model_class, source.weights, config=config, output_loading_info=True, **source.hub, **loader
        )
    if "device_map" in loader:
        check_devices(loader["device_map"], {str(parameter.device) for parameter in model.parameters()})
    packed = [name for name, parameter in model.named_parameters() if is_beacon(name) and not is_wide(parameter)]
    if packed:
        raise ValueError(
            f"quantization_config={quantization(model)!r} packs {packed[0]}; "
            f"allowed: one that leaves beacons as they are, as bitsandbytes does"
        )
    return model, _check_keys(model, info, source.weights)


def _check_keys(model: BeaconModel, info: Mapping[str, Any], source: str) -> bool:
    """Whether the checkpoint had beacons. ValueError if backbone weights are missing or the beacons do not fit."""
    missing = set(info["missing_keys"])
    backbone = sorted(name for name in missing if not is_beacon(name))
    if backbone:
        raise ValueError(f"{source} lacks {len(backbone)} weights of the backbone: {', '.join(backbone[:3])} ...")
    expected = {name for name, _ in model.named_parameters() if is_beacon(name)}
    found = (expected - missing) | {name for name in info["unexpected_keys"] if is_beacon(name)}
    if found:
        check_names(expected, found, source)
    return bool(found)


def _cast_beacons(model: BeaconModel, wanted: torch.dtype | str, stored: Mapping[str, Tensor]) -> None:
    """Put the beacon parameters into a dtype; for "auto" each into that in which it is stored, if it is."""
    for name, parameter in model.named_parameters():
        if is_beacon(name):
            own = stored[name].dtype if name in stored else parameter.dtype
            parameter.data = parameter.data.to(wanted if isinstance(wanted, torch.dtype) else own)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back Hugging Face's load report: `_check_keys` judges what is missing."""
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
