"""The backbone alone, as a plain Hugging Face folder, for programs that know nothing of beacons."""

import json
from pathlib import Path

from safetensors.torch import save_file
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from beacon_lit.arch.checkpoint.backbone import family
from beacon_lit.arch.checkpoint.quantized import is_quantized, quantization
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.nn.names import is_backbone


def save_backbone(model: BeaconModel, folder: str | Path) -> None:
    """Write the weights that `BeaconLM.dense` uses, in their dtype, under the backbone's own architecture.

    Args:
        model: on one device; beacons and an adapter are left out.
        folder: created if necessary; it gets config.json and one file of weights, but no tokenizer.

    Raises:
        ValueError: a quantised backbone.
    """
    if is_quantized(model):
        raise ValueError(
            f"quantization_config={quantization(model)!r} is not allowed to write the backbone; allowed: none"
        )
    folder, config = Path(folder), model.config
    folder.mkdir(parents=True, exist_ok=True)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    weights = {
        name.replace(".base_layer.", "."): value.contiguous()  # a projection that has an adapter
        for name, value in model.state_dict().items()
        if is_backbone(name) and name not in tied
    }
    save_file(weights, folder / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
    fields = {name: value for name, value in config.to_diff_dict().items() if name != "beacon"} | {
        "model_type": family(config),
        "architectures": [type(model).__name__.removeprefix("Beacon")],
        "tie_word_embeddings": config.tie_word_embeddings,  # whose default depends on the version of transformers
    }
    (folder / CONFIG_NAME).write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
