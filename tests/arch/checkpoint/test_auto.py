"""AutoConfig and AutoModelForCausalLM give a beacon model for every folder of ours, never silently a plain one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2ForCausalLM

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.checkpoint import save_published
from tests.arch.folders import IDS, assert_same, edit_json, save_backbone, trained
from tests.arch.tiny import FAMILIES, OTHERS, hf_config

BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, placement="interleave")
WRITERS: dict[str, Callable[[BeaconLM, Path], None]] = {
    "beacons": lambda lm, folder: lm.save_pretrained(folder),
    "full": lambda lm, folder: lm.save_pretrained(folder, beacon_only=False),
    "published": save_published,
}
LAYOUTS = pytest.mark.parametrize("layout", WRITERS)


@pytest.fixture
def lm(tmp_path: Path) -> BeaconLM:
    return trained(save_backbone(tmp_path / "backbone"), BEACON)


def write(lm: BeaconLM, layout: str, folder: Path) -> Path:
    WRITERS[layout](lm, folder)
    return folder


@pytest.mark.parametrize(
    ("family", "layout"),
    [*((f, w) for f in FAMILIES for w in WRITERS if (f, w) != ("qwen3", "published")), *((f, "full") for f in OTHERS)],
)
def test_every_folder_of_ours(family: str, layout: str, tmp_path: Path) -> None:
    lm = trained(save_backbone(tmp_path / "backbone", family), BEACON).eval()
    folder = write(lm, layout, tmp_path / layout)
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert_same(lm, again)
    assert {name for name, p in again.named_parameters() if p.requires_grad} == {
        name for name in lm.state_dict() if "beacon" in name
    }
    options = {"ratios": 2, "max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    assert torch.equal(again.generate(IDS, **options), lm.generate(IDS, **options))
    config = AutoConfig.from_pretrained(folder)
    assert type(config) is type(lm.config)
    assert_same(lm, AutoModelForCausalLM.from_pretrained(folder, config=config))
    assert_same(lm, BeaconLM.from_pretrained(folder, config=config))


@LAYOUTS
def test_options_of_the_call(layout: str, lm: BeaconLM, tmp_path: Path) -> None:
    folder = write(lm, layout, tmp_path / layout)
    load = AutoModelForCausalLM.from_pretrained
    half = load(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert load(folder, attn="sdpa").attn == "sdpa"
    assert load(folder, max_position_embeddings=64).positions == 64
    rope = {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}
    assert load(folder, rope_parameters=rope).config.rope_parameters["factor"] == 3.0
    with pytest.raises(ValueError, match="widnow=8 is not allowed"):
        load(folder, widnow=8)


@pytest.mark.parametrize("layout", ["beacons", "full"])
def test_beacon_settings_of_the_call(layout: str, lm: BeaconLM, tmp_path: Path) -> None:
    folder = write(lm, layout, tmp_path / layout)
    other = BeaconConfig(window=16, ratios=4, placement="interleave")
    assert AutoModelForCausalLM.from_pretrained(folder, beacon=other.to_dict()).beacon == other


def test_beacon_config_json_is_what_counts_for_beacons_alone(lm: BeaconLM, tmp_path: Path) -> None:
    """Their config.json is there to be recognised by; settings edited in the one file hold whoever reads them."""
    folder = write(lm, "beacons", tmp_path / "beacons")
    saved = json.loads((folder / "beacon_config.json").read_text())
    edit_json(folder / "beacon_config.json", beacon={**saved["beacon"], "eval_ratio": 4})
    for load in (BeaconLM.from_pretrained, AutoModelForCausalLM.from_pretrained):
        assert load(folder).beacon.eval_ratio == 4


def test_a_folder_of_beacons_alone_from_before_it_had_a_config(lm: BeaconLM, tmp_path: Path) -> None:
    folder = write(lm, "beacons", tmp_path / "beacons")
    (folder / "config.json").unlink()
    assert_same(lm, BeaconLM.from_pretrained(folder))
    assert_same(lm, BeaconLM.from_pretrained(folder, config=hf_config("qwen2")))


def test_a_plain_type_is_taken_for_the_plain_backbone(lm: BeaconLM, tmp_path: Path) -> None:
    """Why `save_published` does not write one by default."""
    save_published(lm, tmp_path / "published", plain_type=True)
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "published")) is Qwen2ForCausalLM
    assert_same(lm, BeaconLM.from_pretrained(tmp_path / "published"))


def test_a_published_folder_with_code_of_its_own(lm: BeaconLM, tmp_path: Path) -> None:
    """Its code is never run, nor asked for, and no model of ours goes on naming it."""
    save_published(lm, tmp_path / "published")
    code = {"AutoConfig": "configuration_qwen2.Qwen2Config", "AutoModelForCausalLM": "modeling_qwen2.Qwen2ForCausalLM"}
    edit_json(tmp_path / "published" / "config.json", auto_map=code)
    for trust in (None, False, True):
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "published", trust_remote_code=trust)
        assert_same(lm, again)
        assert_same(lm, BeaconLM.from_pretrained(tmp_path / "published", trust_remote_code=trust))
    again.save_pretrained(tmp_path / "full", beacon_only=False)
    config = json.loads((tmp_path / "full" / "config.json").read_text())
    assert "auto_map" not in config and not any(name.startswith("beacon_") for name in config)


def test_without_beacon_lit_every_folder_of_ours_is_refused(lm: BeaconLM, tmp_path: Path) -> None:
    for layout in WRITERS:
        write(lm, layout, tmp_path / layout)
    code = """
import sys
from transformers import AutoModelForCausalLM
for folder in sys.argv[1:]:
    try:
        AutoModelForCausalLM.from_pretrained(folder)
    except ValueError as error:
        assert "beacon_qwen2" in str(error), error
    else:
        raise SystemExit(f"{folder} was loaded")
assert "beacon_lit" not in sys.modules
"""
    folders = [str(tmp_path / layout) for layout in WRITERS]
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([sys.executable, "-c", code, *folders], check=True, cwd=tmp_path, env=environment)


# Folders that could be taken for something else


def test_beacons_alone_are_not_written_over_a_whole_model(lm: BeaconLM, tmp_path: Path) -> None:
    before = (tmp_path / "backbone" / "config.json").read_bytes()
    for folder in (tmp_path / "backbone", write(lm, "full", tmp_path / "full")):
        with pytest.raises(ValueError, match="holds a whole model"):
            lm.save_pretrained(folder)
    assert (tmp_path / "backbone" / "config.json").read_bytes() == before


def test_a_folder_of_both_is_refused(lm: BeaconLM, tmp_path: Path) -> None:
    folder = write(lm, "beacons", tmp_path / "both")
    write(lm, "full", folder)
    for load in (BeaconLM.from_pretrained, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(ValueError, match=r"holds beacons alone .* and a whole model"):
            load(folder)
