"""`beacon-convert`: every layout to every other, bit for bit, and what is refused."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.checkpoint import settings
from beacon_lit.cli.convert import LAYOUTS, convert, main
from tests.arch.folders import assert_same, no_weights, trained
from tests.configs import small_backbone

BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, placement="interleave")


@pytest.fixture
def lm(tmp_path: Path) -> BeaconLM:
    """Float32 beacons on a half-precision backbone with a tokenizer; alone in the folder "beacons"."""
    backbone = small_backbone(tmp_path / "backbone")
    LlamaForCausalLM.from_pretrained(backbone, dtype=torch.bfloat16).save_pretrained(backbone)
    lm = trained(backbone, BEACON, beacon_dtype="float32")
    lm.save_pretrained(tmp_path / "beacons")
    return lm


def test_every_layout_to_every_other(lm: BeaconLM, tmp_path: Path) -> None:
    expected = AutoTokenizer.from_pretrained(tmp_path / "backbone")("words").input_ids
    for to in LAYOUTS:
        assert_same(lm, convert(tmp_path / "beacons", tmp_path / to / "first", to))
    for first, second in itertools.product(LAYOUTS, LAYOUTS):
        target = tmp_path / first / second
        convert(tmp_path / first / "first", target, second)
        assert_same(lm, BeaconLM.from_pretrained(target, beacon_dtype="auto"))
        if second != "beacons":
            assert AutoTokenizer.from_pretrained(target)("words").input_ids == expected


def test_a_training_checkpoint(lm: BeaconLM, tmp_path: Path) -> None:
    state = {f"lm.{name}": value for name, value in lm.state_dict().items() if "beacon" in name}
    torch.save({"state_dict": state, "beacon_settings": settings(lm)}, tmp_path / "last.ckpt")
    convert(tmp_path / "last.ckpt", tmp_path / "published", "published", plain_type=True)
    assert_same(lm, BeaconLM.from_pretrained(tmp_path / "published", beacon_dtype="auto"))


def test_a_training_checkpoint_of_a_whole_model(lm: BeaconLM, tmp_path: Path) -> None:
    with torch.no_grad():
        lm.model.norm.weight.mul_(2)
    state = {f"lm.{name}": value for name, value in lm.state_dict().items()}
    torch.save({"state_dict": state, "beacon_settings": settings(lm)}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"to='beacons' is not allowed, .* has a trained backbone, too"):
        convert(tmp_path / "last.ckpt", tmp_path / "alone", "beacons")
    convert(tmp_path / "last.ckpt", tmp_path / "full", "full")
    assert_same(lm, BeaconLM.from_pretrained(tmp_path / "full", beacon_dtype="auto"))


def test_a_backbone_that_has_moved_and_has_no_tokenizer(
    lm: BeaconLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = (tmp_path / "backbone").rename(tmp_path / "moved")
    for folder in (moved, tmp_path / "beacons"):
        for file in (*folder.glob("tokenizer*"), *folder.glob("chat_template*")):
            file.unlink()
    convert(tmp_path / "beacons", tmp_path / "full", "full", backbone=str(moved))
    assert_same(lm, BeaconLM.from_pretrained(tmp_path / "full", beacon_dtype="auto"))
    assert "moved has no tokenizer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "to", "plain_type", "message"),
    [
        ("beacons", "ours", False, "to='ours' is not allowed; allowed: published, beacons, full"),
        ("beacons", "full", True, "plain_type=True is not allowed with to='full'"),
        ("backbone", "full", False, "source=.* is a plain backbone; allowed: a model with beacons"),
        ("none", "full", False, "none"),
        ("overlap", "published", False, "overlap=3 is not allowed; allowed: 0"),
    ],
)
def test_what_is_refused_before_weights_are_read(
    source: str,
    to: str,
    plain_type: bool,
    message: str,
    lm: BeaconLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = BeaconLM.from_pretrained(
        tmp_path / "backbone", BeaconConfig(window=8, ratios=2, overlap=3, placement="interleave")
    )
    other.save_pretrained(tmp_path / "overlap")
    no_weights(monkeypatch)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / source, tmp_path / "target", to, plain_type=plain_type)
    assert not (tmp_path / "target").exists()


def test_settings_of_reading_are_left_out_of_the_published_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = trained(small_backbone(tmp_path / "backbone"), replace(BEACON, eval_ratio=4, unfinished="beacons"))
    lm.save_pretrained(tmp_path / "beacons")
    converted = convert(tmp_path / "beacons", tmp_path / "published", "published")
    said = capsys.readouterr().out
    assert "eval_ratio=4 is left out" in said and "unfinished='beacons' is left out" in said
    assert converted.beacon == BEACON
    lm.beacon = BEACON
    assert_same(lm, BeaconLM.from_pretrained(tmp_path / "published"))
    assert convert(tmp_path / "beacons", tmp_path / "full", "full").beacon.eval_ratio == 4
    assert "left out" not in capsys.readouterr().out


def test_a_setting_that_the_published_layout_lacks_has_a_way_out(tmp_path: Path) -> None:
    trained(
        small_backbone(tmp_path / "backbone"), BeaconConfig(window=8, ratios=2, placement="select")
    ).save_pretrained(tmp_path / "beacons")
    with pytest.raises(ValueError, match=r"placement='select' is not allowed; .*beacon-convert --to full keeps every"):
        convert(tmp_path / "beacons", tmp_path / "published", "published")


def test_nothing_is_written_over(lm: BeaconLM, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in (tmp_path / "beacons").iterdir()}
    with pytest.raises(ValueError, match=r"target=.* it exists; allowed: a new or an empty folder"):
        convert(tmp_path / "beacons", tmp_path / "beacons", "full")
    assert {file.name: file.read_bytes() for file in (tmp_path / "beacons").iterdir()} == before


def test_the_command_line(
    lm: BeaconLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["convert", str(tmp_path / "beacons"), str(tmp_path / "published"), "--to", "published"]
    monkeypatch.setattr(sys, "argv", command)
    main()
    assert "published: BeaconLlamaForCausalLM, BeaconConfig(window=8" in capsys.readouterr().out
    assert_same(lm, BeaconLM.from_pretrained(tmp_path / "published", beacon_dtype="auto"))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and "is not allowed, it exists" in capsys.readouterr().err
