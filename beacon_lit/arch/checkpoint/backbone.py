"""Check that a backbone supports beacons, and find its model class."""

from collections.abc import Callable
from typing import TypeVar

from transformers import PretrainedConfig

from beacon_lit.arch.config import BeaconConfig
from beacon_lit.arch.core import ATTENTION_CAP, FINAL_CAP, BeaconModel
from beacon_lit.arch.nn.kernels import check_kernel
from beacon_lit.arch.nn.rope import ROPE_TYPES, positions, rope_settings

# Fields of a config that `beacon_model` sets anew, and `auto_map`, code of a published checkpoint that is never run.
_REPLACED = ("model_type", "beacon", "auto_map")
_RANDOM = ("dropout", "pdrop", "jitter")  # in names of what layers would draw in training

M = TypeVar("M", bound=BeaconModel)
ClassOf = Callable[[PretrainedConfig], type[M]]


def family(config: PretrainedConfig) -> str:
    """Return the name of the backbone's architecture, e.g. "qwen2"."""
    return config.model_type.removeprefix("beacon_")


def beacon_model(
    class_of: ClassOf[M], hf_config: PretrainedConfig, beacon: BeaconConfig, attn: str
) -> tuple[type[M], PretrainedConfig]:
    """Choose the model class of a config, and put the beacon settings into the config. No weights are needed.

    Args:
        class_of: returns the model class of a backbone's config.
        hf_config: the backbone's config; stays unchanged.
        beacon: the beacon settings.
        attn: attention kernel.

    Returns:
        The model class; and its config, with `beacon` among the fields.

    Raises:
        ValueError: see `BeaconLM.from_config`.
    """
    model_class = class_of(hf_config)
    for rope in (settings["rope_type"] for settings in rope_settings(hf_config).values()):
        if rope not in ROPE_TYPES:
            raise ValueError(
                f"rope_type={rope!r} is not allowed: its frequencies change with the length of the text, and memory "
                f"keys are rotated once; allowed: {', '.join(ROPE_TYPES)}"
            )
    for name, value in hf_config.to_dict().items():
        random = any(word in name for word in _RANDOM) and not name.startswith("classifier")
        if random and isinstance(value, int | float) and value:
            raise ValueError(
                f"{name}={value} is not allowed: in training, layers would drop or add at random; allowed: 0.0, which "
                f"from_pretrained takes as {name}=0.0, a command as +model.backbone.{name}=0.0"
            )
    for name in (ATTENTION_CAP, FINAL_CAP):
        _check_cap(name, getattr(hf_config, name, None), name in model_class.caps)
    if getattr(hf_config, "use_bidirectional_attention", False):
        raise ValueError(
            "use_bidirectional_attention=True is not allowed: beacons need causal attention; allowed: False"
        )
    reaches = {kind.reach for kind in model_class.layer_kinds(hf_config)}
    if None not in reaches:
        raise ValueError(
            f"layer_types={hf_config.layer_types} is not allowed: no layer sees more than its sliding window, so that "
            f"beacons would be of no effect; allowed: at least one 'full_attention'"
        )
    slides = reaches != {None}
    _check_window(hf_config, beacon, None if slides else getattr(hf_config, "sliding_window", None))
    check_kernel(attn, beacon.placement, getattr(hf_config, ATTENTION_CAP, None))
    kept = {
        name: value
        for name, value in hf_config.to_dict().items()
        if name not in _REPLACED and not name.startswith("beacon_")  # a published checkpoint's settings
    }
    config = model_class.config_class.from_dict({**kept, "beacon": beacon.to_dict()})
    config._name_or_path = hf_config._name_or_path
    config._experts_implementation = hf_config._experts_implementation  # of no effect without experts
    return model_class, config


def _check_cap(name: str, cap: float | None, known: bool) -> None:
    """Raise a ValueError for a cap that is not above 0, or that models of the type in transformers ignore."""
    if cap is not None and not known:
        raise ValueError(f"{name}={cap} is not allowed: transformers' models of this type do not cap; allowed: null")
    if cap is not None and not cap > 0:
        raise ValueError(f"{name}={cap} is not allowed; allowed: a number above 0, or null")


def _check_window(hf_config: PretrainedConfig, beacon: BeaconConfig, sliding: int | None) -> None:
    """Raise a ValueError if a window needs too many positions, or more than a sliding window that is not used."""
    limit = positions(hf_config)
    slots = beacon.sink + beacon.overlap + beacon.window + beacon.window // min(beacon.ratios)
    if slots > limit:
        raise ValueError(
            f"window={beacon.window} needs {slots} position slots (sink, overlap, window and its beacons at ratio "
            f"{min(beacon.ratios)}); allowed: at most the backbone's {limit} (max_position_embeddings)"
        )
    kinds = getattr(hf_config, "layer_types", None) or ("sliding_attention",)  # Mistral has no list: all layers slide
    if sliding is not None and "sliding_attention" in kinds and beacon.window > sliding:
        raise ValueError(
            f"window={beacon.window} is not allowed; allowed: at most the backbone's sliding_window={sliding}"
        )
