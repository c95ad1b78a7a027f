"""Beacons alone: a folder of their weights, their settings and the fingerprint of their backbone.

beacon.safetensors    the beacons' tensors
beacon_config.json    settings, and the backbone's name and fingerprint: what counts when they are read
config.json           a model of the registered type, so that AutoConfig and AutoModelForCausalLM find our class
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import CONFIG_NAME

from beacon_lit.arch.checkpoint.files import (
    SETTINGS_FILE,
    TRAINING_SUFFIX,
    WEIGHTS_FILE,
    as_value_error,
    has_whole_model,
)
from beacon_lit.arch.checkpoint.fingerprint import check_backbone, check_shapes, sample, shapes
from beacon_lit.arch.checkpoint.names import check_names, is_beacon
from beacon_lit.arch.checkpoint.quantized import is_quantized
from beacon_lit.arch.checkpoint.sharded import collect, put

if TYPE_CHECKING:
    from beacon_lit.arch.model import BeaconLM

MODULE_PREFIX = "lm."  # of a training checkpoint's parameter names
POSITION_FIELDS = ("rope_parameters", "max_position_embeddings")


def save_beacons(
    model: "BeaconLM", folder: str | Path, state: Mapping[str, Tensor] | None = None, write: bool = True
) -> None:
    """Write the beacons alone, with the backbone's name and its fingerprint.

    Args:
        model: the model. Where its parameters are spread over ranks, every rank must call this.
        folder: made if need be.
        state: the model's state dict, where it is not its own.
        write: whether this rank writes.

    Raises:
        ValueError: the folder holds a whole model, whose config.json would be lost.
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
    (folder / SETTINGS_FILE).write_text(json.dumps(about, indent=2) + "\n")
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # how the backbone was loaded this once, not what it is
    config.to_json_file(folder / CONFIG_NAME)


def settings(model: "BeaconLM") -> dict[str, Any]:
    """What `beacon_config.json` holds: the beacon settings, the backbone's name and its fingerprint."""
    backbone = {"name": model.config._name_or_path, "config": shapes(model.config), "sample": sample(model)}
    scaling = {name: getattr(model.config, name) for name in POSITION_FIELDS}
    return {"beacon": model.beacon.to_dict(), "backbone": {**backbone, "positions": scaling}}


def load_beacons(model: "BeaconLM", path: str | Path, allow_other_backbone: bool = False) -> None:
    """Read beacons into a model, in the model's dtypes; from a training checkpoint all that was trained.

    Args:
        model: the model.
        path: a folder written by `save_beacons`, or a training checkpoint (`.ckpt`).
        allow_other_backbone: put them on a backbone of the same shape but with other weights.

    Raises:
        ValueError: the file is missing or damaged, or its beacons are on other projections than the model's, or of
            another backbone.
    """
    path = Path(path)
    if path.suffix != TRAINING_SUFFIX and not (path / SETTINGS_FILE).is_file():
        raise ValueError(
            f"{path} holds no beacons; allowed: a folder with {SETTINGS_FILE}, or a {TRAINING_SUFFIX} file"
        )
    put_beacons(model, path, read_settings(path), read_tensors(path), allow_other_backbone)


def put_beacons(
    model: "BeaconLM", path: Path, saved: Mapping[str, Any], tensors: Mapping[str, Tensor], allow_other_backbone: bool
) -> None:
    """Put what `read_settings` and `read_tensors` gave into a model; see `load_beacons`."""
    expected = {name for name, _ in model.named_parameters() if is_beacon(name)}
    check_names(expected, {name for name in tensors if is_beacon(name)}, str(path))
    check_shapes(saved, model.config, str(path))
    if is_quantized(model) and tensors.keys() > expected:
        raise ValueError(
            f"quantization_config is not allowed for {path}, whose backbone was trained, too; allowed: none. Save it "
            f"as a whole and load that: save_pretrained(folder, beacon_only=False)"
        )
    parameters = dict(model.named_parameters())
    for name in (name for name in parameters if name in tensors):  # in the same order on every rank
        put(parameters[name], tensors[name])
    if not allow_other_backbone:  # after loading: a backbone that was trained, too, is that of the checkpoint now
        check_backbone(saved, model, str(path))


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a folder of beacons alone, or in a training checkpoint: as `settings` makes them."""
    if path.suffix == TRAINING_SUFFIX:
        with as_value_error(str(path)):
            return _read_training(path)["beacon_settings"]
    file = path / SETTINGS_FILE
    try:
        found = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not {"beacon", "backbone"} <= found.keys():
        raise ValueError(f"{file} has {', '.join(found) or 'nothing'}; it needs beacon and backbone")
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a folder of beacons alone; those of a training checkpoint, which may have the backbone's, too."""
    training = path.suffix == TRAINING_SUFFIX
    file = path if training else path / WEIGHTS_FILE
    with as_value_error(str(file)):
        found = _read_training(file)["state_dict"] if training else load_file(file)
    return {name.removeprefix(MODULE_PREFIX): value for name, value in found.items()}


def _read_training(file: Path) -> dict[str, Any]:
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
