"""The file of a cache: one safetensors file, with counts and settings as JSON in its metadata."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "beacon_cache-2"  # in the metadata
OLDER = {FORMAT: ("beacon_cache-1",)}  # formats that are read as well; the older one has no `own_k` and `own_v`


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any], format: str = FORMAT) -> None:
    """Write a cache's tensors and a JSON-ready description. An older file stays until the new one is complete.

    Raises:
        ValueError: `path` is a folder.
    """
    if path.is_dir():
        raise ValueError(f"path={path} is a folder; allowed: a file's name")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, partial, metadata={"format": format, "about": json.dumps(about)})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read(
    path: str | Path, device: torch.device | str, format: str = FORMAT
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write` wrote; JSON's lists come back as tuples.

    Raises:
        ValueError: the file is missing, damaged or of another format.
    """
    with _opened(path, device, format) as (file, about):
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118


def read_about(path: str | Path, format: str = FORMAT) -> dict[str, Any]:
    """Read the description alone, see `read`."""
    with _opened(path, "cpu", format) as (_, about):
        return about


@contextmanager
def _opened(path: str | Path, device: torch.device | str, format: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a file, and yield it with its description."""
    try:
        with safe_open(str(path), "pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") not in (format, *OLDER.get(format, ())):
                raise ValueError(f"{path} has the format {metadata.get('format')!r}; allowed: {format!r}")
            yield file, _as_tuples(json.loads(metadata["about"]))
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot load the cache {path}: {error}") from error


def _as_tuples(value: Any) -> Any:
    """Turn lists into tuples, at any depth."""
    if isinstance(value, dict):
        return {name: _as_tuples(entry) for name, entry in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
