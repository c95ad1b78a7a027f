"""Check the files of a whole model in a local folder before they are read."""

import json
from pathlib import Path

from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from beacon_lit.arch.checkpoint.files import PathError

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.json", "merges.txt", "tokenizer.model", "tekken.json",
)  # fmt: skip
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json")
_WHOLE = ("model*.safetensors", "pytorch_model*.bin")
_POINTER = b"version https://git-lfs.github.com/spec/"


def has_whole_model(folder: Path) -> bool:
    """Whether a folder holds the weights of a whole model, as opposed to beacons alone."""
    return any(next(folder.glob(pattern), None) for pattern in _WHOLE)


def gguf_files(folder: Path) -> list[Path]:
    """Return the GGUF files of a folder, by name."""
    return sorted(file for file in folder.glob("*") if file.suffix.lower() == ".gguf")


def check_config(folder: Path) -> None:
    """Raise a ValueError unless the local folder of a whole model holds config.json."""
    if not (folder / CONFIG_NAME).is_file():
        raise PathError(folder, f"holds weights, but no {CONFIG_NAME}; allowed: the complete folder of a model")
    check_file(folder / CONFIG_NAME)


def check_weights(folder: Path) -> None:
    """Raise a ValueError unless the local folder of a whole model holds all weights that are to be read."""
    for file in _weights(folder):
        check_file(file)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in _VOCABULARIES)


def check_file(file: Path) -> None:
    """Raise a ValueError for an empty file, or for a Git LFS pointer in place of the file.

    Args:
        file: an existing file.
    """
    with file.open("rb") as opened:
        start = opened.read(len(_POINTER))
    if start == _POINTER:
        raise ValueError(
            f"{file} is a Git LFS pointer, which stands for the file; fetch the file itself: git lfs pull in its folder"
        )
    if not start:
        raise ValueError(f"{file} is empty; its download or copy was cut short, so fetch the file again")


def _weights(folder: Path) -> list[Path]:
    """Return the files of weights, in the order in which transformers looks for them: safetensors come first."""
    for single, index in ((SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME), (WEIGHTS_NAME, WEIGHTS_INDEX_NAME)):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            return _shards(folder, folder / index)
    if has_whole_model(folder):
        raise PathError(folder, f"holds parts of a model's weights, but not their index {SAFE_WEIGHTS_INDEX_NAME}")
    raise PathError(
        folder,
        f"holds {CONFIG_NAME}, but no weights; allowed: a folder with {SAFE_WEIGHTS_NAME}, {WEIGHTS_NAME} or the index "
        f"of several files",
    )


def _shards(folder: Path, index: Path) -> list[Path]:
    check_file(index)
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{index} is not an index of weights: {error!r}") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        more = "" if len(missing) == 1 else f" (and {len(missing) - 1} more)"
        raise PathError(folder, f"lacks {missing[0]}{more} of the {len(names)} files that {index.name} names")
    return [folder / name for name in names]
