"""Make a beacon model: with random weights, or loaded from any kind of checkpoint."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from beacon_lit.arch.checkpoint.backbone import ClassOf, beacon_model, family
from beacon_lit.arch.checkpoint.beacons import put_beacons
from beacon_lit.arch.checkpoint.files import PathError, as_value_error, beacon_tensors
from beacon_lit.arch.checkpoint.merging import WRITE_MERGED, merge_into
from beacon_lit.arch.checkpoint.options import as_dtype, check_devices, sort_options
from beacon_lit.arch.checkpoint.quantized import dequantized_projections, is_wide, quantization, sparing_beacons
from beacon_lit.arch.checkpoint.self_check import check_itself
from beacon_lit.arch.checkpoint.source import Source, config_settings
from beacon_lit.arch.checkpoint.streaming import Sharder, parts, stream
from beacon_lit.arch.config import BeaconConfig
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.nn.int4 import adopt
from beacon_lit.arch.nn.names import check_names, is_beacon

M = TypeVar("M", bound=BeaconModel)


def from_config(
    class_of: ClassOf[M],
    hf_config: PretrainedConfig,
    beacon: BeaconConfig | None,
    attn: str,
    shard: Sharder | None,
) -> M:
    """Make a model with random weights.

    Args:
        class_of: returns the model class of a backbone's config.
        hf_config, beacon, attn, shard: see `BeaconLM.from_config`, also for errors.
    """
    beacon = beacon or config_settings(hf_config) or BeaconConfig()
    model_class, config = beacon_model(class_of, hf_config, beacon, attn)
    model = model_class(config)
    model.attn = attn
    for part in parts(model):
        model.initialize_beacons(part)
        if shard is not None:
            shard(part)
    if shard is None and not model.listed:
        check_itself(model)
    return model


def load(
    class_of: ClassOf[M],
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
        class_of: returns the model class of a backbone's config.
        path: one of
            - a hub id or a folder of a plain backbone; the beacons start from its projections;
            - a GGUF file of a plain backbone, or its folder; the file is dequantised once, into a cache folder;
            - a folder with a peft adapter, which is merged into the base model that the adapter names;
            - the folder of a run, with the beacons in it;
            - a published beacon checkpoint: `beacon_*` fields in config.json, `beacon_*` tensors among the weights;
            - a hub id or a folder written by `save_pretrained`, with a whole model, or with beacons alone, whose
              settings name their backbone;
            - a training checkpoint (`.ckpt`).
        beacon: beacon settings; default: the checkpoint's own, else `BeaconConfig()`.
        attn: attention kernel: "auto", "flash_attn", "varlen" or "sdpa".
        backbone: hub id, folder or GGUF file of the backbone of beacons alone or of an adapter; default: the one that
            they name.
        beacon_dtype: dtype of the beacon parameters, e.g. float32 for training; "auto": the dtype in which they are
            stored; default: the backbone's.
        allow_other_backbone: accept beacons of a backbone with the same shapes but other weights.
        config: config of the model, as AutoModelForCausalLM passes it. For beacons alone, fields that differ from
            their own config.json change the backbone's config.
        shard: spreads each part of the model over ranks once the part is read, see `streaming.Sharder`. Every rank
            must then call this function, and `dtype` is the only option of the loader that is allowed.
        options: `dtype`, `device_map` (one device), `quantization_config`, `revision`, `token`, `cache_dir`,
            `local_files_only`, `subfolder` and others of Hugging Face's `from_pretrained` (`options.py` lists them),
            and fields of the backbone's config (`rope_parameters=...`). For beacons alone, they apply to the backbone.

    Raises:
        ValueError: no such checkpoint, an architecture or setting that is not allowed (before weights are read), a
            missing or truncated weight file, beacons of another backbone or of other projections than `beacon.params`,
            a model that does not fit on one device, or a quantisation that would pack the beacons.
    """
    wanted = None if beacon_dtype is None else as_dtype("beacon_dtype", beacon_dtype)
    hub, loader, fields = sort_options(options)
    source = Source.of(str(path), backbone, hub, loader.get("dtype"))
    hf_config, own = source.read_config(config, fields)
    model_class, hf_config = beacon_model(class_of, hf_config, beacon or own or BeaconConfig(), attn)
    if shard is not None and not model_class.listed:
        raise ValueError(
            f"model_type={family(hf_config)!r} is not allowed where a strategy shards the model: the architecture is "
            f"not listed, and its check runs on one device; allowed: a strategy that does not shard"
        )
    source.check_weights()
    stored = source.read_beacons()
    if shard is None:
        model = _load_whole(model_class, source, hf_config, loader, wanted, stored)
    else:
        model = _load_parts(model_class, source, hf_config, loader, wanted, stored, shard)
    model.attn = attn
    if source.saved is not None:
        put_beacons(model, source.path, source.saved, stored, allow_other_backbone)
    if not model.listed:
        check_itself(model)
    return model


def _load_whole(
    model_class: type[M],
    source: Source,
    config: PretrainedConfig,
    loader: Mapping[str, Any],
    beacon_dtype: torch.dtype | str | None,
    stored: Mapping[str, Tensor],
) -> M:
    """Load the model on one device. Beacons are read if they are stored with the backbone, else start from it."""
    model, has_beacons = _read_model(model_class, source, config, loader)
    if source.adapter is not None:
        merge_into(model, source.adapter, source.name)
    model.freeze()
    if has_beacons and source.saved is None and beacon_dtype is not None:
        stored = beacon_tensors(source.weights, source.hub)  # again: the loader rounded them
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
    """Load the model spread over ranks. Beacons are read if they are stored with the backbone, else start from it."""
    for name in loader.keys() - {"dtype"}:
        raise ValueError(f"{name}={loader[name]!r} is not allowed where a strategy shards the model; allowed: none")
    if source.adapter is not None:
        why = "is an adapter, which is not allowed where a strategy shards the model; allowed: the merged model: "
        raise PathError(source.adapter, why + WRITE_MERGED)
    dtype: Any = loader.get("dtype", "auto")
    if dtype == "auto":
        dtype = as_dtype("dtype", config.dtype or "float32")
    own_dtype: Any = dtype if beacon_dtype is None else beacon_dtype
    if beacon_dtype == "auto":
        own_dtype = next(iter(stored.values())).dtype if stored else None
    model, info = stream(model_class, source, config, dtype, own_dtype, shard)
    _check_keys(model, info, source.weights)
    return model


def _read_model(
    model_class: type[M], source: Source, config: PretrainedConfig, loader: Mapping[str, Any]
) -> tuple[M, bool]:
    """Return the model with the weights of the checkpoint, and whether beacons are among them."""
    if "quantization_config" in loader:
        loader = {**loader, "quantization_config": sparing_beacons(loader["quantization_config"])}
    with as_value_error(source.label), _quiet():
        model, info = PreTrainedModel.from_pretrained.__func__(  # type: ignore[attr-defined]
            model_class, source.weights, config=config, output_loading_info=True, **source.hub, **loader
        )
    if "device_map" in loader:
        check_devices(loader["device_map"], {str(parameter.device) for parameter in model.parameters()})
    packed = [
        name
        for name, parameter in model.named_parameters()
        if (is_beacon(name) or not name.startswith("model.layers.")) and not is_wide(parameter)
    ]
    if packed:
        raise ValueError(
            f"quantization_config={quantization(model)!r} packs {packed[0]}; "
            f"allowed: one that leaves beacons, embedding and head unpacked, as bitsandbytes and torchao do by default"
        )
    adopt(model)
    return model, _check_keys(model, info, source.weights)


def _check_keys(model: BeaconModel, info: Mapping[str, Any], source: str) -> bool:
    """Whether the checkpoint has beacons.

    Raises:
        ValueError: weights of the backbone are missing, or the beacons do not fit the settings.
    """
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
    """Convert the beacon parameters to a dtype; for "auto", each stored parameter to the dtype on disk."""
    for name, parameter in model.named_parameters():
        if is_beacon(name):
            own = stored[name].dtype if name in stored else parameter.dtype
            parameter.data = parameter.data.to(wanted if isinstance(wanted, torch.dtype) else own)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Hugging Face's report on weights within this context, since `_check_keys` checks for missing ones.

    Raises:
        RuntimeError: weights cannot be converted, e.g. quantised; with the first cause that the report gives.
    """
    verbosity, logger, held = hf_logging.get_verbosity(), hf_logging.get_logger("transformers.modeling_utils"), []

    def hold(record: logging.LogRecord) -> bool:
        held.append(record.getMessage())
        return False

    hf_logging.set_verbosity_error()
    logger.setLevel(logging.WARNING)  # of the report
    logger.addFilter(hold)
    try:
        yield
    except RuntimeError as error:
        causes = re.findall(r"^\w+Error: .+", "\n".join(held), re.MULTILINE)
        if not causes:
            raise
        raise RuntimeError(causes[0].strip()) from error
    finally:
        logger.removeFilter(hold)
        logger.setLevel(logging.NOTSET)
        hf_logging.set_verbosity(verbosity)
