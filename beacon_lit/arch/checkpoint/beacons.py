"""Write and read beacons without their backbone, as a folder.

beacon.safetensors    the beacons' tensors
beacon_config.json    beacon settings, and the backbone's name and fingerprint; checked on loading
adapter/              the backbone's LoRA adapter, if there is one, in peft's own format
config.json           a config of the registered model type, by which AutoConfig and AutoModelForCausalLM find our class

A folder that Hugging Face's Trainer writes also has model.safetensors.index.json, by which the Trainer resumes, and
adapter/resume.safetensors, the adapter by the names of the model's parameters.

"Beacons alone" means this format, as opposed to a whole model. A training checkpoint (`.ckpt`) can be read as well.
"""

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME

from beacon_lit.arch.checkpoint import adapter
from beacon_lit.arch.checkpoint.adapter_files import read_adapter, write_adapter
from beacon_lit.arch.checkpoint.files import (
    ADAPTER_FOLDER,
    SETTINGS_FILE,
    TRAINING_SUFFIX,
    WEIGHTS_FILE,
    as_value_error,
)
from beacon_lit.arch.checkpoint.fingerprint import check_backbone, check_shapes, sample, shapes
from beacon_lit.arch.checkpoint.quantized import is_quantized
from beacon_lit.arch.checkpoint.sharded import collect, put
from beacon_lit.arch.checkpoint.whole import has_whole_model
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.nn.names import check_names, is_adapter, is_backbone, is_beacon

log = logging.getLogger(__name__)

MODULE_PREFIX = "lm."  # parameter names of a training checkpoint begin with this
_RESUMED_ADAPTER = f"{ADAPTER_FOLDER}/resume.safetensors"
_WITHOUT_EFFECT = ("max_shard_size", "safe_serialization", "token")  # options of Hugging Face's `save_pretrained`
POSITION_FIELDS = ("rope_parameters", "max_position_embeddings")


def save_beacons(
    model: BeaconModel, folder: str | Path, state: Mapping[str, Tensor] | None = None, write: bool = True
) -> None:
    """Write the beacons alone, and the backbone's adapter, with the backbone's name and fingerprint.

    Args:
        model: the model. If its parameters are spread over ranks, every rank must call this function.
        folder: where to write; created if necessary.
        state: state dict to write; default: the model's parameters.
        write: whether this rank writes.

    Raises:
        ValueError: the folder holds a whole model, whose config.json would be overwritten.
    """
    folder = Path(folder)
    if has_whole_model(folder):
        raise ValueError(f"{folder} holds a whole model; allowed: a new folder, or one of beacons alone")
    found = dict(model.named_parameters()) if state is None else state
    tensors = collect({name: value for name, value in found.items() if is_beacon(name)}, write)
    about = settings(model)
    if not write:
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    if adapter.settings(model) is not None:
        write_adapter(model, folder / ADAPTER_FOLDER, found)
    (folder / SETTINGS_FILE).write_text(json.dumps(about, indent=2) + "\n")
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # says how the backbone was loaded, not what it is
    config.to_json_file(folder / CONFIG_NAME)


def save_beacons_alone(model: BeaconModel, folder: str | Path, *unknown: Any, **options: Any) -> None:
    """Call `save_beacons` with options named as in Hugging Face's `save_pretrained`.

    Args:
        model, folder: see `save_beacons`.
        unknown: positional options; none is allowed.
        options: `state_dict` and `is_main_process`, which are `state` and `write` of `save_beacons`; and options that
            mean nothing to one small file, `_WITHOUT_EFFECT`.

    Raises:
        ValueError: another option; see also `save_beacons`.
    """
    by_trainer = "state_dict" in options  # None or not
    state, write = options.pop("state_dict", None), options.pop("is_main_process", True)
    unused = [*map(repr, unknown), *(name for name in options if name not in _WITHOUT_EFFECT)]
    if unused:
        allowed = ", ".join(("state_dict", "is_main_process", *_WITHOUT_EFFECT))
        raise ValueError(
            f"{unused[0]} is not allowed with beacon_only=True; allowed: {allowed}; or lm.push_to_hub(name) to upload"
        )
    if write and any(value.requires_grad and is_backbone(name) for name, value in model.named_parameters()):
        log.warning("beacon_only=True leaves out the backbone, which is trained as well; beacon_only=False saves all")
    save_beacons(model, folder, state, write)
    if write and by_trainer:
        _write_index(Path(folder), dict(model.named_parameters()) if state is None else state)


def _write_index(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write the index of weights by which Hugging Face's Trainer resumes.

    The Trainer reads tensors by the names of the model's parameters, which differ from those in peft's format. An
    adapter is therefore written once more.
    """
    own = {name: value.detach().contiguous() for name, value in state.items() if is_adapter(name)}
    if own:
        save_file(own, folder / _RESUMED_ADAPTER, metadata={"format": "pt"})
    files = {name: WEIGHTS_FILE for name in state if is_beacon(name)} | dict.fromkeys(own, _RESUMED_ADAPTER)
    index = {"metadata": {}, "weight_map": files}
    (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")


def settings(model: BeaconModel) -> dict[str, Any]:
    """Return the content of `beacon_config.json`.

    Returns:
        "beacon": the beacon settings; "backbone": its name, fingerprint, RoPE settings, and caps if it may have some;
        and "adapter": the settings of the adapter, if there is one.
    """
    backbone = {"name": model.config._name_or_path, "config": shapes(model.config), "sample": sample(model)}
    backbone["positions"] = {name: getattr(model.config, name) for name in POSITION_FIELDS}
    if caps := {name: getattr(model.config, name) for name in model.caps if hasattr(model.config, name)}:
        backbone["caps"] = caps
    found = {"beacon": model.beacon.to_dict(), "backbone": backbone}
    lora = adapter.settings(model)
    return found if lora is None else {**found, "adapter": lora}


def load_beacons(model: BeaconModel, path: str | Path, allow_other_backbone: bool = False) -> None:
    """Read beacons into a model, in the model's dtypes; from a training checkpoint, read all that was trained.

    An adapter among the files is added to the backbone and not trained. If the model has an adapter already, only its
    weights are set.

    Args:
        model: the model.
        path: a folder written by `save_beacons`, or a training checkpoint (`.ckpt`).
        allow_other_backbone: accept beacons of a backbone with the same shapes but other weights.

    Raises:
        ValueError: a file is missing or damaged, or the beacons belong to other projections than the model's, or to
            another backbone.
    """
    path = Path(path)
    if path.suffix != TRAINING_SUFFIX and not (path / SETTINGS_FILE).is_file():
        raise ValueError(
            f"{path} holds no beacons alone; allowed: a folder with {SETTINGS_FILE}, or a {TRAINING_SUFFIX} file. "
            f"A whole model is loaded in place of the backbone (model.path=...)"
        )
    put_beacons(model, path, read_settings(path), read_tensors(path), allow_other_backbone)


def put_beacons(
    model: BeaconModel, path: Path, saved: Mapping[str, Any], tensors: Mapping[str, Tensor], allow_other_backbone: bool
) -> None:
    """Set a model's beacons to what `read_settings` and `read_tensors` returned.

    Args:
        model: the model.
        path: where the beacons come from, for messages.
        saved: the settings.
        tensors: the tensors.
        allow_other_backbone: see `load_beacons`.

    Raises:
        ValueError: see `load_beacons`.
    """
    check_shapes(saved, model.config, str(path))
    _put_adapter(model, path, saved)
    alone = {name for name in tensors if not is_backbone(name)}
    expected = {
        name for name, _ in model.named_parameters() if is_beacon(name) or ("adapter" in saved and is_adapter(name))
    }
    check_names(expected, alone, str(path))
    if is_quantized(model) and tensors.keys() > alone:
        raise ValueError(
            f"quantization_config is not allowed for {path}, whose backbone was trained as well; allowed: none. Save "
            f"and load the whole model: save_pretrained(folder, beacon_only=False)"
        )
    parameters = dict(model.named_parameters())
    for name in (name for name in parameters if name in tensors):  # in the same order on every rank
        put(parameters[name], tensors[name])
    if not allow_other_backbone:  # after loading, since the checkpoint may hold a trained backbone
        check_backbone(saved, model, str(path))


def _put_adapter(model: BeaconModel, path: Path, saved: Mapping[str, Any]) -> None:
    """Add the adapter that `saved` describes, if the model lacks it; not trained, and with its weights still unset."""
    if "adapter" not in saved:
        return
    own = adapter.settings(model)
    adapter.ensure(model, saved["adapter"], str(path))
    if own is None:
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.requires_grad_(False)


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings of beacons alone, or of a training checkpoint; see `settings` for the content.

    Raises:
        ValueError: the file is missing or damaged, or has an adapter while peft is not installed.
    """
    if path.suffix == TRAINING_SUFFIX:
        with as_value_error(str(path)):
            found = _read_training(path)["beacon_settings"]
    else:
        found = _read_settings_file(path / SETTINGS_FILE)
    if "adapter" in found:
        adapter.check_peft(f"the adapter of {path}")
    return found


def _read_settings_file(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not {"beacon", "backbone"} <= found.keys():
        raise ValueError(f"{file} has {', '.join(found) or 'nothing'}; allowed: a file with beacon and backbone")
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of beacons alone and of their adapter; of a training checkpoint, read all that was trained.

    Returns:
        Tensors by the names of the model's parameters; a training checkpoint may hold the backbone's as well.

    Raises:
        ValueError: a file is missing or damaged.
    """
    if path.suffix == TRAINING_SUFFIX:
        with as_value_error(str(path)):
            found = _read_training(path)["state_dict"]
        return {name.removeprefix(MODULE_PREFIX): value for name, value in found.items()}
    with as_value_error(str(path / WEIGHTS_FILE)):
        tensors = load_file(path / WEIGHTS_FILE)
    if "adapter" in read_settings(path):
        with as_value_error(str(path / ADAPTER_FOLDER)):
            tensors |= read_adapter(path / ADAPTER_FOLDER)
    return tensors


def trains_backbone(path: str | Path) -> bool:
    """Whether `path` is a training checkpoint that holds trained weights of the backbone."""
    names = read_tensors(Path(path)) if str(path).endswith(TRAINING_SUFFIX) else ()
    return any(map(is_backbone, names))


def _read_training(file: Path) -> dict[str, Any]:
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
