"""Check that a backbone supports beacons, and find its model class."""

from collections.abc import Mapping
from typing import TypeVar

from transformers import PretrainedConfig

from beacon_lit.arch.config import BeaconConfig
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.nn.kernels import check_kernel
from beacon_lit.arch.nn.rope import ROPE_TYPES, positions

# Fields of a config that `beacon_model` sets anew, and `auto_map`, code of a published checkpoint that is never run.
_REPLACED = ("model_type", "beacon", "auto_map")

M = TypeVar("M", bound=BeaconModel)


def family(config: PretrainedConfig) -> str:
    """Return the name of the backbone's architecture, e.g. "qwen2"."""
    return config.model_type.removeprefix("beacon_")


def beacon_model(
    families: Mapping[str, type[M]], hf_config: PretrainedConfig, beacon: BeaconConfig, attn: str
) -> tuple[type[M], PretrainedConfig]:
    """Choose the model class of a config, and put the beacon settings into the config. No weights are needed.

    Args:
        families: model class by architecture.
        hf_config: the backbone's config; stays unchanged.
        beacon: the beacon settings.
        attn: attention kernel.

    Returns:
        The model class; and its config, with `beacon` among the fields.

    Raises:
        ValueError: see `BeaconLM.from_config`.
    """
    if family(hf_config) not in families:
        raise ValueError(
            f"model_type={hf_config.model_type!r} is not supported; allowed: {', '.join(sorted(families))}"
        )
    rope = hf_config.rope_parameters["rope_type"]
    if rope not in ROPE_TYPES:
        raise ValueError(
            f"rope_type={rope!r} is not allowed: memory keys are rotated once; allowed: {', '.join(ROPE_TYPES)}"
        )
    if getattr(hf_config, "attention_dropout", 0):
        raise ValueError(f"attention_dropout={hf_config.attention_dropout} is not allowed; allowed: 0")
    _check_window(hf_config, beacon)
    check_kernel(attn, beacon.placement)
    model_class = families[family(hf_config)]
    kept = {
        name: value
        for name, value in hf_config.to_dict().items()
        if name not in _REPLACED and not name.startswith("beacon_")  # a published checkpoint's settings
    }
    config = model_class.config_class.from_dict({**kept, "beacon": beacon.to_dict()})
    config._name_or_path = hf_config._name_or_path
    config._experts_implementation = hf_config._experts_implementation  # of no effect without experts
    return model_class, config


def _check_window(hf_config: PretrainedConfig, beacon: BeaconConfig) -> None:
    limit = positions(hf_config)
    slots = beacon.sink + beacon.overlap + beacon.window + beacon.window // min(beacon.ratios)
    if slots > limit:
        raise ValueError(
            f"window={beacon.window} needs {slots} position slots (sink, overlap, window and its beacons at ratio "
            f"{min(beacon.ratios)}); allowed: at most the backbone's {limit} (max_position_embeddings)"
        )
    sliding = getattr(hf_config, "sliding_window", None)
    kinds = getattr(hf_config, "layer_types", None) or ("sliding_attention",)  # Mistral has no list: all layers slide
    if sliding is not None and "sliding_attention" in kinds and beacon.window > sliding:
        raise ValueError(
            f"window={beacon.window} is not allowed; allowed: at most the backbone's sliding_window={sliding}"
        )
