"""Compare the backbone that vLLM serves with the one that an exported cache was made on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PretrainedConfig

from beacon_lit.arch.checkpoint.files import weight_files
from beacon_lit.arch.checkpoint.fingerprint import few_values, shapes

_WEIGHTS = {
    "weights of first q_proj": "model.layers.0.self_attn.q_proj.weight",
    "weights of norm": "model.norm.weight",
}


def identify(config: PretrainedConfig, source: str, revision: str | None = None) -> dict[str, Any]:
    """Return shapes, RoPE and samples of weights of a plain backbone, by the names of `CacheFile.backbone`.

    Args:
        config: the backbone's config.
        source: its folder, or the hub id of files in Hugging Face's local cache.
        revision: of the hub id.

    Returns:
        values by name; without samples if there are no safetensors, as in GGUF files.
    """
    rope = json.dumps(config.rope_parameters, sort_keys=True, default=str)
    return {**shapes(config), "rope_parameters": rope, **_samples(source, revision)}


def _samples(source: str, revision: str | None) -> dict[str, list[float]]:
    try:
        files = weight_files(source, {"revision": revision, "local_files_only": True})
    except ValueError:
        return {}
    return {own: _sample(files[name], name) for own, name in _WEIGHTS.items() if name in files}


def _sample(file: Path, name: str) -> list[float]:
    with safe_open(file, "pt") as opened:
        return few_values({name: opened.get_tensor(name)})[name]


def check_backbone(saved: Mapping[str, Any], served: Mapping[str, Any], name: str) -> None:
    """Raise a ValueError unless a cache was made on the backbone that is served.

    Args:
        saved: `CacheFile.backbone`.
        served: see `identify`; weights are compared if it has samples.
        name: the cache's name, for the message.
    """
    for field in saved:
        if field in served and not _ALIKE.get(field, _equal)(saved[field], served[field]):
            raise ValueError(
                f"beacon_cache={name!r} was made on a backbone with another {field} ({_short(saved[field])}; served: "
                f"{_short(served[field])}); allowed: a cache of the backbone that is served"
            )


def _short(value: Any) -> str:
    return str(value) if len(str(value)) <= 60 else f"{str(value)[:57]}..."


def _equal(one: Any, two: Any) -> bool:
    return one == two


def _near(one: Any, two: Any) -> bool:
    """Equal to the rounding of bfloat16."""
    return len(one) == len(two) and torch.allclose(torch.tensor(one), torch.tensor(two), rtol=2e-2, atol=1e-6)


def _same_rope(one: str, two: str) -> bool:
    """Equal in all settings that both name: versions of transformers fill in different defaults."""
    left, right = json.loads(one), json.loads(two)
    return all(left[name] == right[name] for name in left.keys() & right.keys())


_ALIKE = {"rope_parameters": _same_rope, **dict.fromkeys(_WEIGHTS, _near)}
