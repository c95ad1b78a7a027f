"""Folders of data -> their files: saved by `datasets`, laid out as on the Hugging Face hub, or files of any kind."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from beacon_lit.data.sources.formats import FORMATS, suffix

SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"  # what save_to_disk of Dataset and DatasetDict write
_CARD = "README.md"
# Names of splits, the first that exists.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"),
}  # fmt: skip

T = TypeVar("T")


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote a folder."""
    return (folder / SAVED).is_file() or (folder / SAVED_SPLITS).is_file()


def is_aside(file: Path) -> bool:
    """Whether a file is one that `datasets` writes beside data: a description, or cached results."""
    cached = file.name.startswith("cache-") and file.suffix == ".arrow"
    return cached or file.name in (SAVED, SAVED_SPLITS, "dataset_info.json", "dataset_infos.json")


def files_of(folder: Path, config: str | None, split: str) -> list[Path]:
    """Return the files of a split of a folder, in order.

    Args:
        folder: an existing folder.
        config: one of the configurations that the folder's card (README.md) lists.
        split: "train", "validation" (also under other names: val, dev, test), or the name of a split. Of a folder with
            one split, all files are returned.

    Raises:
        ValueError: the folder has no files that can be read, other splits, or several configurations.
    """
    if (folder / SAVED).is_file():
        return _saved_files(folder)
    if (folder / SAVED_SPLITS).is_file():
        return _saved_files(
            _chosen(folder, {name: folder / name for name in _json(folder / SAVED_SPLITS, "splits")}, split)
        )
    splits = {name: [file for file in files if _is_data(file)] for name, files in _splits(folder, config).items()}
    splits = {name: files for name, files in splits.items() if files}
    if not splits:
        there = sorted({suffix(file) or file.name for file in folder.rglob("*") if file.is_file()})[:12]
        raise ValueError(
            f"{folder} has no files that can be read, but {there or 'no files at all'}; allowed: a folder that "
            f"save_to_disk wrote, or one with {', '.join(name for name in FORMATS if name.count('.') == 1)}"
        )
    return _chosen(folder, splits, split)


def _is_data(file: Path) -> bool:
    return suffix(file) in FORMATS and not is_aside(file) and file.name != _CARD


def _chosen(folder: Path, splits: Mapping[str, T], split: str) -> T:
    if len(splits) == 1:
        return next(iter(splits.values()))
    for name in _SPLITS.get(split, (split,)):
        if name in splits:
            return splits[name]
    raise ValueError(f"{folder} has no split {split!r}, but {', '.join(splits)}; {_setting(folder, 'split', splits)}")


def _setting(folder: Path, name: str, allowed: Any) -> str:
    """Say how to name a split or a configuration of a folder."""
    return f"choose: {{_target_: beacon_lit.data.sources.AutoSource, path: {folder}, {name}: {next(iter(allowed))}}}"


def _saved_files(folder: Path) -> list[Path]:
    """Return the files that `save_to_disk` lists, and so no others that are beside them."""
    return [folder / entry["filename"] for entry in _json(folder / SAVED, "_data_files")]


def _json(file: Path, key: str) -> Any:
    try:
        return json.loads(file.read_bytes())[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not list {key}, as save_to_disk writes it: {error!r}") from error


def _splits(folder: Path, config: str | None) -> Mapping[str, Sequence[Path]]:
    """Return the files of each split, by the card of the folder or by the names of files and folders."""
    # Imported here, since the imports take seconds.
    from datasets import load_dataset_builder
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns

    configs = _configs(folder / _CARD)
    if config is None and len(configs) > 1 and "default" not in configs:
        listed = ", ".join(configs)
        raise ValueError(f"{folder} has the configurations {listed}; {_setting(folder, 'config', configs)}")
    try:
        if config is None and not configs:
            found = DataFilesDict.from_patterns(get_data_patterns(str(folder)), base_path=str(folder))
        else:
            found = load_dataset_builder(str(folder), config).config.data_files
    except EmptyDatasetError:
        return {}
    except Exception as error:  # of many types, depending on the card
        raise ValueError(f"{folder} (config={config!r}) cannot be read: {type(error).__name__}: {error}") from error
    return {str(name): sorted(map(Path, files)) for name, files in (found or {}).items()}


def _configs(card: Path) -> list[str]:
    """Return the names of the configurations that the card of a data set lists."""
    from huggingface_hub import DatasetCard

    if not card.is_file():
        return []
    try:
        listed = DatasetCard.load(card).data.to_dict().get("configs") or []
        return [entry.get("config_name", "default") for entry in listed]
    except Exception as error:  # of many types, depending on the card
        raise ValueError(f"{card} cannot be read as the card of a data set: {error}") from error
