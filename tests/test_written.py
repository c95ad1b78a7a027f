"""Beacons, whole models, caches and training checkpoints that an earlier version wrote are read as they were meant."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from beacon_lit import BeaconCache, BeaconConfig, BeaconLM
from beacon_lit.cli.train import train
from tests.arch.tiny import assert_close
from tests.configs import composed, small_run

WRITTEN = Path(__file__).parent / "fixtures" / "written"


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(WRITTEN / "expected.safetensors")


@pytest.mark.parametrize("folder", ["beacons", "whole"])
@torch.no_grad()
def test_models(folder: str, expected: dict[str, Tensor]) -> None:
    options = {"backbone": str(WRITTEN / "backbone")} if folder == "beacons" else {}
    lm = BeaconLM.from_pretrained(str(WRITTEN / folder), **options).eval()
    assert lm.beacon == BeaconConfig(
        window=8,
        ratios=(2, 4),
        ratio_policy="cycle",
        sink=1,
        overlap=2,
        params=("q", "k", "v", "o"),
        placement="interleave",
    )
    assert_close(lm(expected["ids"]).logits, expected["logits"], 1e-5)


@pytest.mark.parametrize(
    ("file", "name", "changes"),
    [
        ("cache.safetensors", "after_cache", {}),
        ("cache-beacons.safetensors", "after_cache_beacons", {"unfinished": "beacons", "ratio_policy": "adapt-4"}),
    ],
)
@torch.no_grad()
def test_caches(file: str, name: str, changes: dict[str, str], expected: dict[str, Tensor]) -> None:
    folder, backbone = str(WRITTEN / "beacons"), str(WRITTEN / "backbone")
    config = BeaconLM.from_pretrained(folder, backbone=backbone).beacon.to_dict()
    lm = BeaconLM.from_pretrained(folder, BeaconConfig(**config | changes), backbone=backbone).eval()
    cache = BeaconCache.load(WRITTEN / file)
    assert cache.seen_tokens == 29 and cache.unfinished == lm.beacon.unfinished
    assert_close(lm(expected["ids"][:, 29:], cache=cache).logits, expected[name], 1e-5)
    wrong = lm(expected["ids"][:, 28:-1], cache=cache).logits
    assert (wrong - expected[name]).abs().max() > 1e-2


def test_a_run_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    overrides = [*small_run(WRITTEN / "llama", WRITTEN / "text.jsonl", tmp_path / "run")]
    overrides += ["beacon=interleave", f"resume={WRITTEN}/step-000002.ckpt", "callbacks.checkpoint.save_top_k=-1"]
    loss = train(composed("train", *overrides))["train/loss"]
    assert loss == pytest.approx(json.loads((WRITTEN / "metrics.json").read_text())["train/loss"], abs=1e-6)
