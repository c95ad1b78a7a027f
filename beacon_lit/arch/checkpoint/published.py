"""Write models as published checkpoints do: `beacon_*` fields in config.json, `beacon_*` tensors among the weights."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME

from beacon_lit.arch.checkpoint.adapter import check_merged
from beacon_lit.arch.checkpoint.backbone import family
from beacon_lit.arch.checkpoint.files import SETTINGS_FILE
from beacon_lit.arch.checkpoint.quantized import is_quantized, quantization
from beacon_lit.arch.core import BeaconModel

FAMILIES = ("llama", "mistral", "qwen2")  # the families of the paper's code
ROPE_TYPES = ("default", "linear")
_RENAMED = ("beacon", "dtype", "rope_parameters")


def save_published(model: BeaconModel, folder: str | Path, *, plain_type: bool = False, **options: Any) -> None:
    """Write a whole model in the layout of the published checkpoints, which `from_pretrained` also reads.

    The fields of config.json have the names that the paper's code reads, including older names of RoPE's fields. By
    default, `model_type` is our registered type: with the backbone's own type, AutoModelForCausalLM would load the
    folder as the plain backbone, without beacons and without an error.

    Args:
        model: the model.
        folder: where to write; created if necessary.
        plain_type: write the backbone's `model_type` and class, which the paper's code requires. Read such a folder
            with `BeaconLM.from_pretrained`, never with AutoModelForCausalLM. Default: False.
        options: options of Hugging Face's `save_pretrained`.

    Raises:
        ValueError: the layout cannot express a setting, the architecture or the weights; the model has an adapter; or
            the folder holds beacons alone.
    """
    folder = Path(folder)
    if (folder / SETTINGS_FILE).exists():
        raise ValueError(f"{folder} holds beacons alone ({SETTINGS_FILE}); allowed: another folder")
    check_merged(model)
    config = published_config(model, plain_type)
    PreTrainedModel.save_pretrained(model, folder, **options)  # type: ignore[arg-type]
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def published_config(model: BeaconModel, plain_type: bool) -> dict[str, Any]:
    """Return the content of config.json, with the field names of transformers 4, which the paper's code uses."""
    _check_backbone(model)
    config, rope = model.config, model.config.rope_parameters
    linear = rope["rope_type"] == "linear"
    model_class = type(model).__name__
    return {
        **{name: value for name, value in config.to_diff_dict().items() if name not in _RENAMED},
        **model.beacon.to_published(),
        "model_type": family(config) if plain_type else config.model_type,
        "architectures": [model_class.removeprefix("Beacon") if plain_type else model_class],
        "tie_word_embeddings": config.tie_word_embeddings,  # has another default in transformers 4
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "linear", "factor": rope["factor"]} if linear else None,
        "torch_dtype": str(model.model.embed_tokens.weight.dtype).removeprefix("torch."),
    }


def _check_backbone(model: BeaconModel) -> None:
    """Raise a ValueError if the layout cannot express the backbone."""
    config = model.config
    only_head_dim = config.hidden_size // config.num_attention_heads  # the paper's code derives it
    head_dim = getattr(config, "head_dim", None) or only_head_dim
    _require(family(config) in FAMILIES, "model_type", family(config), ", ".join(FAMILIES))
    rope = config.rope_parameters["rope_type"]
    _require(rope in ROPE_TYPES, "rope_type", rope, ", ".join(ROPE_TYPES))
    allowed = f"{only_head_dim}, hidden_size / num_attention_heads"
    _require(head_dim == only_head_dim, "head_dim", head_dim, allowed)
    if is_quantized(model):
        _require(False, "quantization_config", quantization(model), "none, since weights are stored unpacked")


def _require(condition: bool, name: str, value: object, allowed: object) -> None:
    if not condition:
        raise ValueError(f"{name}={value!r} is not allowed in the published layout; allowed: {allowed}")
