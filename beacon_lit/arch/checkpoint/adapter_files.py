"""Write and read a LoRA adapter in peft's own format: adapter_model.safetensors and adapter_config.json."""

import copy
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from beacon_lit.arch.checkpoint.adapter import NAME
from beacon_lit.arch.checkpoint.files import ADAPTER_FILE
from beacon_lit.arch.core import BeaconModel

_PREFIX = "base_model.model."  # of parameter names in peft's files


def write_adapter(model: BeaconModel, folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write the model's adapter.

    Args:
        model: a model with an adapter.
        folder: where to write; created if necessary.
        state: the model's state dict, with whole parameters.
    """
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, dict(state), save_embedding_layers=False)
    tensors = {_PREFIX + name: value.detach().contiguous().cpu() for name, value in found.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
    config = copy.copy(model.peft_config[NAME])
    config.base_model_name_or_path, config.inference_mode = model.config._name_or_path, True
    config.save_pretrained(str(folder))


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """Return the tensors that `write_adapter` wrote, by the names of the model's parameters."""
    return {_own_name(name): value for name, value in load_file(folder / ADAPTER_FILE).items()}


def _own_name(name: str) -> str:
    """Convert a name of peft's file, `base_model.model.X.lora_A.weight`, to the model's, `X.lora_A.default.weight`."""
    return f"{name.removeprefix(_PREFIX).removesuffix('.weight')}.{NAME}.weight"
