"""Merge the adapter of another program, a folder in peft's format, into the backbone's weights while they are loaded.

The merged model is then the backbone: beacons start from its projections, and `BeaconLM.dense` runs the merged model.
(An adapter that is trained with the beacons stays apart, see `adapter`.)
"""

from pathlib import Path
from typing import Any

from transformers.utils import ADAPTER_CONFIG_NAME

from beacon_lit.arch.checkpoint.adapter import check_peft
from beacon_lit.arch.checkpoint.files import ADAPTER_FILE, PathError, as_value_error
from beacon_lit.arch.checkpoint.paths import adapter_base
from beacon_lit.arch.checkpoint.quantized import is_quantized, quantization
from beacon_lit.arch.checkpoint.whole import check_file
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.nn.names import is_beacon

_OLDER_FILE = "adapter_model.bin"
_FITS = "allowed: the base model of the adapter"
WRITE_MERGED = "BeaconLM.from_pretrained(ADAPTER).save_backbone(FOLDER)"


def check_adapter(folder: Path) -> None:
    """Raise a ValueError unless a folder holds an adapter that can be merged. Weights are not read.

    Args:
        folder: a folder with adapter_config.json.
    """
    check_peft(f"the adapter in {folder}")
    from peft import PeftConfig

    for name in (ADAPTER_CONFIG_NAME, ADAPTER_FILE, _OLDER_FILE):
        if (folder / name).is_file():
            check_file(folder / name)
    if not any((folder / name).is_file() for name in (ADAPTER_FILE, _OLDER_FILE)):
        raise PathError(folder, f"holds {ADAPTER_CONFIG_NAME}, but no {ADAPTER_FILE}; allowed: an adapter's folder")
    adapter_base(folder)
    with as_value_error(str(folder)):
        config = PeftConfig.from_pretrained(str(folder))
    if config.is_prompt_learning:
        raise PathError(
            folder,
            f"is a {config.peft_type.value} adapter, which adds tokens and changes no weights; allowed: adapters that "
            f"can be merged into the weights, such as LORA",
        )


def merge_into(model: BeaconModel, folder: Path, name: str) -> None:
    """Add an adapter to the backbone's weights, in their dtype.

    Args:
        model: a model whose beacons are not initialised yet.
        folder: the adapter, which has passed `check_adapter`.
        name: how the merged backbone is called in the settings of beacons.

    Raises:
        ValueError: a quantised backbone, or an adapter whose weights do not fit the backbone.
    """
    from peft import PeftConfig, PeftModel

    if is_quantized(model):
        raise ValueError(
            f"quantization_config={quantization(model)!r} is not allowed for the adapter in {folder}: nothing can be "
            f"added to packed weights; allowed: none, or the merged model: {WRITE_MERGED}"
        )
    config: Any = PeftConfig.from_pretrained(str(folder))
    with as_value_error(f"the adapter in {folder}"):
        wrapped = PeftModel(model, config)  # type: ignore[arg-type]
        try:
            found = wrapped.load_adapter(str(folder), "default", torch_device=str(model.device))
        except RuntimeError as error:  # of torch, with a line for every tensor
            raise ValueError(
                f"the adapter in {folder} does not fit the backbone ({_first_line(error)}); {_FITS}"
            ) from error
        wrong = [*found.missing_keys, *found.unexpected_keys]
        beacons = [key for key, _ in model.named_parameters() if is_beacon(key) and ".default." in key]
        if wrong or beacons:
            raise ValueError(f"the adapter in {folder} does not fit the backbone ({[*wrong, *beacons][0]}); {_FITS}")
        wrapped.merge_and_unload(safe_merge=True)  # type: ignore[operator]
    if hasattr(model, "peft_config"):
        del model.peft_config
    model.config._name_or_path = name


def _first_line(error: Exception) -> str:
    """Return the first tensor that torch complains about."""
    return str(error).splitlines()[:2][-1].strip()
