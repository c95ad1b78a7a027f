"""Tell what a path holds, before anything of it is loaded. Models and tokenizers are found in this one way.

hub id, folder with config.json       a whole model: a plain backbone, or a backbone with beacons
folder with beacon_config.json        beacons alone, whose backbone is elsewhere
file that ends in .ckpt               a training checkpoint
file that ends in .gguf, its folder   a plain backbone, to be unpacked
folder with adapter_config.json       a peft adapter, whose base model is elsewhere
folder of a run                       the beacons in it
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME

from beacon_lit.arch.checkpoint.files import (
    ADAPTER_FILE,
    ADAPTER_FOLDER,
    SETTINGS_FILE,
    TRAINING_SUFFIX,
    WEIGHTS_FILE,
    PathError,
    as_value_error,
    find_file,
)
from beacon_lit.arch.checkpoint.gguf import unpacked_here
from beacon_lit.arch.checkpoint.whole import TOKENIZER_FILES, check_file, gguf_files, has_tokenizer, has_whole_model

ALLOWED = "a hub id, a model's folder, a GGUF file, or the folder of beacons or of an adapter"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_RUN_FOLDERS = ("outputs", "multirun")  # where runs are written, which is no owner on the hub
_RUN_CONFIG, _RUN_BEACONS = "config.yaml", "beacons"
_HUB_CACHE = "models--"  # the hub's cache names a repository's folder models--OWNER--NAME


@dataclass(frozen=True)
class Found:
    """What a path holds.

    Attributes:
        kind: "model", "beacons", "training", "gguf", "adapter", or "tokenizer" for a folder that holds nothing else.
        path: folder, file or hub id.
        hub: options among `files.HUB_OPTIONS` for finding the files of `path`; for beacons and an adapter, for finding
            the files of their backbone.
    """

    kind: str
    path: str
    hub: Mapping[str, Any]


def find(path: str | Path, hub: Mapping[str, Any]) -> Found:
    """Tell what a path holds. Weights are not looked at, see `whole.check_weights`.

    Args:
        path: hub id, folder or file; `~` is the home folder.
        hub: options among `files.HUB_OPTIONS`.

    Raises:
        ValueError: there is nothing at the path, or nothing that can be loaded; says what was found instead.
    """
    given = str(path)
    local = Path(given).expanduser()
    if local.suffix == TRAINING_SUFFIX:
        _check_exists(given, local)
        check_file(local)
        return Found("training", str(local), hub)
    if local.is_dir():
        return _in_folder(local, hub)
    if local.suffix.lower() == ".gguf":
        _check_exists(given, local)
        check_file(local)
        return Found("gguf", str(local), {})
    if local.exists():
        raise PathError(given, f"is a file; allowed: {ALLOWED}")
    _check_hub_id(given)
    return _on_hub(given, hub)


def holds_beacons_alone(path: str | Path) -> bool:
    """Whether a local path names beacons alone, a run's folder with such beacons, or a training checkpoint."""
    local = Path(path).expanduser()
    folders = (local, local / _RUN_BEACONS)
    return local.suffix == TRAINING_SUFFIX or any((folder / SETTINGS_FILE).is_file() for folder in folders)


def find_backbone(path: str, named: str, hub: Mapping[str, Any]) -> Found:
    """Find the backbone of beacons alone or of an adapter.

    Args:
        path: the beacons or the adapter, for messages.
        named: the backbone that they name, or another place of this backbone.
        hub: options among `files.HUB_OPTIONS` for the backbone.

    Raises:
        ValueError: no backbone is named; see also `find`.
    """
    if not named:
        raise ValueError(
            f"{path} does not say which backbone it is for; name it: backbone=... (only tuning=full keeps a "
            "backbone of random weights, such as model=tiny)"
        )
    try:
        return find(unpacked_here(named), hub)
    except PathError as error:
        why = f"{error.why} (the backbone of {path}; if it has moved, say where to: backbone=...)"
        raise PathError(error.path, why, "backbone") from error
    except ValueError as error:
        raise ValueError(f"{error} (the backbone of {path}; if it has moved, say where to: backbone=...)") from error


def adapter_base(folder: Path) -> str:
    """Return the base model that an adapter's folder names, "" if none."""
    try:
        return json.loads((folder / ADAPTER_CONFIG_NAME).read_text()).get("base_model_name_or_path") or ""
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / ADAPTER_CONFIG_NAME} is not valid JSON: {error}") from error


def _check_exists(given: str, local: Path) -> None:
    if not local.exists():
        raise PathError(given, f": no such file or folder; allowed: {ALLOWED}")


def _check_hub_id(given: str) -> None:
    """Refuse a name that is meant as a path, which the hub would be asked for in vain, slowly without a network."""
    owner, slash, _ = given.partition("/")
    hint = "" if slash else " (a hub id is OWNER/NAME)"
    if _HUB_ID.fullmatch(given):
        if owner not in _RUN_FOLDERS and not Path(owner).is_dir():
            return
        hint = f" ({owner} is a folder, so this is no hub id)"
    raise PathError(given, f": no such file or folder; allowed: {ALLOWED}{hint}")


def _in_folder(local: Path, hub: Mapping[str, Any]) -> Found:
    """Tell what a folder holds, or say why that cannot be loaded."""
    below = {name: value for name, value in hub.items() if name != "subfolder"}
    inside = hub.get("subfolder") and not (local / SETTINGS_FILE).is_file()
    folder, rest = (local / hub["subfolder"], below) if inside else (local, hub)
    whole = has_whole_model(folder)
    if (folder / SETTINGS_FILE).is_file():
        if whole:
            raise PathError(folder, f"holds beacons alone ({SETTINGS_FILE}) and a whole model; allowed: one of them")
        for name in (SETTINGS_FILE, WEIGHTS_FILE):
            if (folder / name).is_file():
                check_file(folder / name)
        return Found("beacons", str(folder), rest)
    if (folder / ADAPTER_CONFIG_NAME).is_file():
        if whole:
            raise PathError(
                folder,
                f"holds a whole model and an adapter ({ADAPTER_CONFIG_NAME}), and whether the weights contain the "
                f"adapter already is not known; allowed: remove {ADAPTER_CONFIG_NAME} to load the weights as they are, "
                f"or move the adapter's files into a folder of their own to apply the adapter to the base model that "
                f"it names",
            )
        return Found("adapter", str(folder), rest)
    files = [] if whole else gguf_files(folder)
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise PathError(folder, f"holds several GGUF files; allowed: one of them, {folder}/FILE: {names}")
    if files:
        return Found("gguf", str(files[0]), {})
    if whole or (folder / CONFIG_NAME).is_file():
        return Found("model", str(folder), rest)
    if (folder / _RUN_BEACONS / SETTINGS_FILE).is_file() or (folder / _RUN_BEACONS / CONFIG_NAME).is_file():
        return _in_folder(folder / _RUN_BEACONS, rest)
    if has_tokenizer(folder):
        return Found("tokenizer", str(folder), rest)
    raise PathError(folder, f"{_nothing(folder)}; allowed: {ALLOWED}")


def _nothing(folder: Path) -> str:
    """Say what a folder is that holds nothing to load."""
    if not folder.is_dir():
        return "does not exist"
    if folder.name.startswith(_HUB_CACHE):
        owner, _, name = folder.name.removeprefix(_HUB_CACHE).partition("--")
        return f"is a folder of the hub's cache, which the hub id finds: {owner}/{name}"
    if (folder / _RUN_CONFIG).is_file():
        return f"is the folder of an unfinished run, without {_RUN_BEACONS}/{CONFIG_NAME}"
    if (folder / WEIGHTS_FILE).is_file():
        return f"holds beacons ({WEIGHTS_FILE}), but not their settings ({SETTINGS_FILE})"
    if (folder / "params.json").is_file():
        return f"holds a model in its maker's own format (params.json), without {CONFIG_NAME}"
    names = (CONFIG_NAME, SETTINGS_FILE, ADAPTER_CONFIG_NAME)
    below = sorted({file.parent.name for name in names for file in folder.glob(f"*/{name}")})
    if below:
        return f"holds no model itself, but its subfolders do: {', '.join(below[:5])}"
    inside = sorted(entry.name for entry in folder.iterdir())
    return f"holds no model (there is {', '.join(inside[:3])})" if inside else "is an empty folder"


def _on_hub(name: str, hub: Mapping[str, Any]) -> Found:
    """Tell what a repository of the hub holds; beacons and adapters are downloaded."""
    rest = {key: value for key, value in hub.items() if key not in ("revision", "subfolder")}
    with as_value_error(name):
        settings = find_file(name, SETTINGS_FILE, hub)
        if settings is not None:
            for file in (WEIGHTS_FILE, f"{ADAPTER_FOLDER}/{ADAPTER_FILE}", *TOKENIZER_FILES):
                find_file(name, file, hub)  # downloads the file beside the settings
            return Found("beacons", str(settings.parent), rest)
        adapter = find_file(name, ADAPTER_CONFIG_NAME, hub)
        if adapter is None:
            return Found("model", name, hub)
        for file in (ADAPTER_FILE, "adapter_model.bin", *TOKENIZER_FILES):
            find_file(name, file, hub)
        if find_file(name, CONFIG_NAME, hub) is None:
            return Found("adapter", str(adapter.parent), rest)
    why = f"holds a whole model and an adapter ({ADAPTER_CONFIG_NAME}); allowed: a repository of one of them"
    raise PathError(name, why)
