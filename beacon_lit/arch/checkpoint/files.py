"""Find the files of a checkpoint, in a local folder or in a repository of the Hugging Face hub."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from beacon_lit.arch.nn.names import is_beacon

SETTINGS_FILE = "beacon_config.json"
WEIGHTS_FILE = "beacon.safetensors"
TRAINING_SUFFIX = ".ckpt"
# A subfolder, since AutoModelForCausalLM mistakes a folder with peft's files for a plain backbone with an adapter.
ADAPTER_FOLDER, ADAPTER_FILE = "adapter", "adapter_model.safetensors"
# Options of Hugging Face's `from_pretrained` that say where files are.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


class PathError(ValueError):
    """A path holds nothing that can be loaded.

    Args:
        path: the path.
        why: the rest of the message, such as ": no such file" or "has no tokenizer".
        setting: the setting that gave the path. Commands whose setting has another name than "path" replace it, so that
            the message names what the user typed.
    """

    def __init__(self, path: str | Path, why: str, setting: str = "path") -> None:
        super().__init__(path, why, setting)
        self.path, self.why, self.setting = path, why, setting

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __str__(self) -> str:
        return f"{self.setting}={self.path}{'' if self.why.startswith(':') else ' '}{self.why}"


def find_file(source: str, name: str, hub: Mapping[str, Any]) -> Path | None:
    """Find a file in a folder or in a hub repository, from which the file is downloaded if necessary.

    Args:
        source: folder or hub id.
        name: the file's name.
        hub: options among `HUB_OPTIONS`.

    Returns:
        The local path of the file; None if there is no such file.
    """
    optional = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    found = cached_file(source, name, **hub, **optional)
    return None if found is None else Path(found)


def weight_files(source: str, hub: Mapping[str, Any]) -> dict[str, Path]:
    """Find the file of each tensor of a whole model.

    Args:
        source: folder or hub id.
        hub: options among `HUB_OPTIONS`.

    Returns:
        Paths of safetensors files, by tensor name.

    Raises:
        ValueError: there are no safetensors, or a file is missing or damaged.
    """
    single, index = (find_file(source, name, hub) for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))
    if single is not None:
        with as_value_error(str(single)), safe_open(single, "pt") as opened:
            return dict.fromkeys(opened.keys(), single)
    if index is None:
        raise ValueError(f"{source} has no safetensors, which beacon_dtype and sharding need; save the model in them")
    names = json.loads(index.read_text())["weight_map"]
    files = {file: find_file(source, file, hub) for file in sorted(set(names.values()))}
    missing = [file for file, path in files.items() if path is None]
    if missing:
        raise ValueError(f"{source} lacks {missing[0]}, which {SAFE_WEIGHTS_INDEX_NAME} names")
    return {name: path for name, file in names.items() if (path := files[file]) is not None}


def beacon_tensors(source: str, hub: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read the beacon tensors of a whole model, in their dtypes on disk; see `weight_files` for arguments, errors."""
    files = {name: file for name, file in weight_files(source, hub).items() if is_beacon(name)}
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(files.values())):
        with safe_open(file, "pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in files if files[name] == file}
    return tensors


@contextmanager
def as_value_error(source: str) -> Iterator[None]:
    """Convert errors about a missing or damaged file into a ValueError that names `source`, within this context."""
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError, but not the file's fault
        raise
    except (OSError, SafetensorError, RuntimeError, UnpicklingError, KeyError) as error:
        raise ValueError(f"cannot load {source}: {error}") from error
