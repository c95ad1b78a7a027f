"""Checkpoints in folders: made of tiny random models, compared, damaged."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from beacon_lit import BeaconConfig, BeaconLM
from tests.arch.tiny import DENSE, hf_config, tokens

BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, overlap=3, placement="interleave")
IDS = tokens(1, 29)


def save_backbone(folder: Path, family: str = "qwen2", seed: int = 0, dtype=torch.float32, **values: Any) -> Path:
    torch.manual_seed(seed)
    DENSE[family](hf_config(family, **values)).to(dtype).save_pretrained(folder)
    return folder


def trained(folder: Path, beacon: BeaconConfig | None = BEACON, **options: Any) -> BeaconLM:
    """A model loaded from a folder, whose beacons are no longer the backbone's."""
    lm = BeaconLM.from_pretrained(str(folder), beacon, **options)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in lm.beacon_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return lm


def read_trained_beacons(
    folder: Path, kind: str, beacon_dtype: str | None, beacon: BeaconConfig, quantization_config: Any
) -> Iterator[BeaconLM]:
    """Save trained beacons, alone or ("full") with their backbone, and yield them as each way to load reads them.

    They are what was saved, whatever packs the backbone, and can be trained further.
    """
    lm = trained(save_backbone(folder / "backbone"), beacon)
    lm.save_pretrained(folder / kind, beacon_only=kind == "beacons")
    for load in (BeaconLM.from_pretrained, AutoModelForCausalLM.from_pretrained):
        options = {"dtype": torch.bfloat16, "beacon_dtype": beacon_dtype}
        found = load(folder / kind, quantization_config=quantization_config, **options)
        for ours, theirs in zip(found.beacon_parameters(), lm.beacon_parameters(), strict=True):
            assert torch.equal(ours, theirs.to(torch.float32 if beacon_dtype else torch.bfloat16))
        found.train()(IDS, labels=IDS, ratios=2).loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in found.beacon_parameters())
        yield found


def assert_same(a: BeaconLM, b: BeaconLM) -> None:
    assert a.beacon == b.beacon and type(a) is type(b)
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with torch.no_grad():
        assert torch.equal(a.eval()(IDS, ratios=2).logits, b.eval()(IDS, ratios=2).logits)


def edit_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, reading weights fails the test."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(fail))
