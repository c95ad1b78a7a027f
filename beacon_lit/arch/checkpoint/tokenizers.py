"""Load the tokenizer of whatever a path holds: the same path as the model's, found in the same way."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from beacon_lit.arch.checkpoint.beacons import read_settings
from beacon_lit.arch.checkpoint.files import HUB_OPTIONS, PathError, as_value_error
from beacon_lit.arch.checkpoint.gguf import gguf_tokenizer
from beacon_lit.arch.checkpoint.paths import Found, adapter_base, find, find_backbone
from beacon_lit.arch.checkpoint.whole import TOKENIZER_FILES, check_file, has_tokenizer


def load_tokenizer(
    pretrained_model_name_or_path: str | Path, *, backbone: str | None = None, **options: Any
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    Args:
        pretrained_model_name_or_path: all that `BeaconLM.from_pretrained` takes, or a folder with a tokenizer alone.
            Beacons and an adapter without tokenizer files use the tokenizer of their backbone.
        backbone: the backbone of beacons alone or of an adapter; default: the one that they name.
        options: options of `AutoTokenizer.from_pretrained`.

    Raises:
        ValueError: there is nothing to load at the path, or no tokenizer.
    """
    hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
    found = _of(find(pretrained_model_name_or_path, hub), backbone)
    with as_value_error(f"the tokenizer of {found.path}"):
        return AutoTokenizer.from_pretrained(found.path, **found.hub, **options)


def copy_tokenizer(source: str | Path, folder: str | Path, **options: Any) -> None:
    """Save the tokenizer that `load_tokenizer` loads, unless the folder has one.

    The class of a tokenizer depends on the config beside it, so its files are not simply copied.

    Args:
        source: see `load_tokenizer`, also for options and errors.
        folder: where to save.
    """
    if not has_tokenizer(Path(folder)):
        load_tokenizer(source, **options).save_pretrained(folder)


def _of(found: Found, backbone: str | None) -> Found:
    """Find the folder or the hub id of the tokenizer that belongs to what was found at a path."""
    folder = Path(found.path)
    if found.kind == "gguf":
        return Found("tokenizer", str(gguf_tokenizer(folder)), {})
    if found.kind in ("model", "tokenizer") or has_tokenizer(folder):
        if folder.is_dir():
            _check(folder)
        return found if found.kind in ("model", "tokenizer") else Found("tokenizer", found.path, {})
    if backbone is None:
        backbone = adapter_base(folder) if found.kind == "adapter" else read_settings(folder)["backbone"]["name"]
    return _of(find_backbone(found.path, backbone, found.hub), None)


def _check(folder: Path) -> None:
    """Raise a ValueError if a folder holds no tokenizer, or pointers in place of the tokenizer's files."""
    if not has_tokenizer(folder):
        raise PathError(folder, "has no tokenizer; allowed: a folder with tokenizer.json or tokenizer.model")
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            check_file(folder / name)
