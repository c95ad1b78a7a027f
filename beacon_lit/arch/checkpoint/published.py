"""The layout of the published checkpoints: `beacon_*` fields in config.json, `beacon_*` tensors among the weights."""

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

FAMILIES = ("llama", "mistral", "qwen2")  # of the paper's code
ROPE_TYPES = ("default", "linear")
_RENAMED = ("beacon", "dtype", "rope_parameters")


def save_published(model: BeaconModel, folder: str | Path, *, plain_type: bool = False, **options: Any) -> None:
    """Write a whole model in the layout of the published checkpoints; `from_pretrained` reads it back.

    config.json has fields of the names that the paper's code reads (RoPE's older ones, too), and by default our
    registered `model_type`: under the backbone's own, AutoModelForCausalLM would take the folder for the plain
    backbone, and its text would be that of a model without beacons. The paper's code knows only the backbone's types.

    Args:
        model: the model.
        folder: made if need be.
        plain_type: write the backbone's `model_type` and class, as the paper's code expects them. Read such a folder
            with `BeaconLM.from_pretrained`, never with AutoModelForCausalLM.
        options: of Hugging Face's `save_pretrained`.

    Raises:
        ValueError: settings, an architecture or weights that the layout cannot express, or a folder of beacons alone.
    """
    folder = Path(folder)
    if (folder / SETTINGS_FILE).exists():
        raise ValueError(f"{folder} holds beacons alone ({SETTINGS_FILE}); allowed: a folder without")
    check_merged(model)
    config = published_config(model, plain_type)
    PreTrainedModel.save_pretrained(model, folder, **options)  # type: ignore[arg-type]
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def published_config(model: BeaconModel, plain_type: bool) -> dict[str, Any]:
    """What config.json holds, with the names of transformers 4, for which the paper's code was written."""
    _check_backbone(model)
    config, rope = model.config, model.config.rope_parameters
    linear = rope["rope_type"] == "linear"
    model_class = type(model).__name__
    return {
        **{name: value for name, value in config.to_diff_dict().items() if name not in _RENAMED},
        **model.beacon.to_published(),
        "model_type": family(config) if plain_type else config.model_type,
        "architectures": [model_class.removeprefix("Beacon") if plain_type else model_class],
        "tie_word_embeddings": config.tie_word_embeddings,  # of another default in transformers 4
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "linear", "factor": rope["factor"]} if linear else None,
        "torch_dtype": str(model.model.embed_tokens.weight.dtype).removeprefix("torch."),
    }


def _check_backbone(model: BeaconModel) -> None:
    config = model.config
    usual = config.hidden_size // config.num_attention_heads
    head = getattr(config, "head_dim", None) or usual
    rope = config.rope_parameters["rope_type"]
    _require(family(config) in FAMILIES, "model_type", family(config), ", ".join(FAMILIES))
    _require(rope in ROPE_TYPES, "rope_type", rope, ", ".join(ROPE_TYPES))
    _require(head == usual, "head_dim", head, f"{usual}, hidden_size / num_attention_heads")
    if is_quantized(model):
        _require(False, "quantization_config", quantization(model), "none, weights as they are")


def _require(condition: bool, name: str, value: object, allowed: object) -> None:
    if not condition:
        raise ValueError(f"{name}={value!r} is not allowed in the published layout; allowed: {allowed}")
