"""A cache is answered from on its own backbone only."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from beacon_lit import BeaconLM
from beacon_lit.vllm import CacheFile, save_for_vllm
from beacon_lit.vllm.backbone import check_backbone, identify
from tests.arch.tiny import FAMILIES, tiny, tokens


def made(folder: Path, family: str = "llama", **settings: Any) -> tuple[CacheFile, dict[str, Any]]:
    """What a cache says about the backbone in a folder, and what the folder says."""
    lm: BeaconLM = tiny(family, **settings).eval()
    lm.save_backbone(folder)
    file = save_for_vllm(lm.compress(tokens(1, 20)), folder / "cache")
    return file, identify(AutoConfig.from_pretrained(folder), str(folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_backbone_is_known_by_its_folder(family: str, tmp_path: Path) -> None:
    file, served = made(tmp_path, family)
    assert file.backbone.keys() <= served.keys() and len(file.backbone) == 11
    check_backbone(file.backbone, served, "book")


@pytest.mark.parametrize(
    "settings, field",
    [
        ({"seed": 1}, "weights of first q_proj"),
        ({"intermediate_size": 64}, "intermediate_size"),
        ({"num_hidden_layers": 3}, "num_hidden_layers"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rope_parameters"),
        ({"family": "mistral"}, "family"),
    ],
)
def test_another_backbone_is_refused(settings: dict[str, Any], field: str, tmp_path: Path) -> None:
    file, _ = made(tmp_path / "one")
    _, other = made(tmp_path / "two", **settings)
    with pytest.raises(ValueError, match=f"beacon_cache='book' was made on a backbone with another {field} .* served"):
        check_backbone(file.backbone, other, "book")


def test_weights_are_not_compared_where_there_are_no_safetensors(tmp_path: Path) -> None:
    file, _ = made(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    served = identify(AutoConfig.from_pretrained(tmp_path), str(tmp_path))
    assert not [name for name in served if name.startswith("weights")]
    check_backbone(file.backbone, served, "book")


def test_defaults_that_a_version_of_transformers_adds_do_not_matter(tmp_path: Path) -> None:
    file, served = made(tmp_path)
    rope = json.loads(served["rope_parameters"]) | {"new": 1}
    check_backbone(file.backbone, served | {"rope_parameters": json.dumps(rope)}, "book")
    rope["rope_theta"] *= 2
    with pytest.raises(ValueError, match="rope_parameters"):
        check_backbone(file.backbone, served | {"rope_parameters": json.dumps(rope)}, "book")
