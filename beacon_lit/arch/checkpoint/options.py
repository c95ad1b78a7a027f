"""Sort and check the options of `from_pretrained`."""

from collections.abc import Mapping
from typing import Any

import torch

from beacon_lit.arch.checkpoint.files import HUB_OPTIONS

LOADER_OPTIONS = (
    "attn_implementation", "device_map", "disable_mmap", "dtype", "experts_implementation", "generation_config",
    "max_memory", "quantization_config", "use_safetensors", "weights_only",
)  # fmt: skip
# AutoModelForCausalLM adds these. Code of a checkpoint is never run, so `trust_remote_code` has no effect.
_WITHOUT_EFFECT = ("_commit_hash", "_from_auto", "adapter_kwargs", "code_revision", "torch_dtype", "trust_remote_code")
_DTYPES = ("float32", "bfloat16", "float16")


def sort_options(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Sort options by what takes them.

    Returns:
        Options for finding files; options of Hugging Face's loader; and all others, fields of the backbone's config.

    Raises:
        ValueError: a dtype that is not allowed, or a device map over several devices.
    """
    if "torch_dtype" in given:  # its name in older versions
        given = {"dtype": given["torch_dtype"], **given}
    hub, loader = (
        {name: given[name] for name in names if given.get(name) is not None} for names in (HUB_OPTIONS, LOADER_OPTIONS)
    )
    taken = {*HUB_OPTIONS, *LOADER_OPTIONS, *_WITHOUT_EFFECT}
    if "dtype" in loader:
        loader["dtype"] = as_dtype("dtype", loader["dtype"])
    device_map = loader.get("device_map")
    if isinstance(device_map, dict):
        check_devices(device_map, set(map(str, device_map.values())))
    return hub, loader, {name: value for name, value in given.items() if name not in taken}


def as_dtype(name: str, value: Any) -> torch.dtype | str:
    """Convert the setting `name`, a dtype or the name of a dtype, to a dtype; "auto" stays.

    Raises:
        ValueError: a model cannot have this dtype.
    """
    if value == "auto":
        return value
    dtype = getattr(torch, value, None) if isinstance(value, str) else value
    if isinstance(dtype, torch.dtype) and str(dtype).removeprefix("torch.") in _DTYPES:
        return dtype
    raise ValueError(f"{name}={value!r} is not allowed; allowed: auto, {', '.join(_DTYPES)}")


def check_devices(device_map: Any, devices: set[str]) -> None:
    """Raise a ValueError unless the model is on one device, since tensors that windows share are not moved.

    Args:
        device_map: the option as given, for the message.
        devices: the devices of the model's parts.
    """
    if len(devices) > 1 or devices & {"meta", "disk"}:
        raise ValueError(
            f"device_map={device_map!r} puts the model on {', '.join(sorted(devices))}; "
            f'allowed: one device for the whole model, e.g. "cpu" or "cuda:0", without offloading'
        )


def check_known(unknown: Mapping[str, Any]) -> None:
    """Raise a ValueError for an option that neither this package, Hugging Face nor the backbone's config has."""
    for name, value in unknown.items():
        allowed = ", ".join(sorted((*HUB_OPTIONS, *LOADER_OPTIONS)))
        raise ValueError(f"{name}={value!r} is not allowed; allowed: fields of the backbone's config, {allowed}")
