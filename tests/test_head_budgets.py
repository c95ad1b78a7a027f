"""The command that computes head budgets, from its line to a model that trains with them."""

import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.nn.importance import repetition_importance
from beacon_lit.arch.plan.budgets import head_budgets
from beacon_lit.cli.head_budgets import PROMPT, compute_head_budgets
from beacon_lit.cli.train import train
from beacon_lit.tiny import byte_tokenizer
from tests.configs import ROOT, composed, small_model, small_run
from tests.warm import warm_python


def overrides(inputs: tuple[Path, Path], folder: Path) -> list[str]:
    backbone, text = inputs
    return [
        *small_model(backbone, 32), "data=text", f"data.validation=[{text}]", "data.max_length=160",
        f"data.cache={folder}/tokens", "length=100", "pieces=3", "ratio=4", "groups=3", f"run_folder={folder}",
    ]  # fmt: skip


def test_the_budgets_are_those_of_the_first_texts(inputs: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    found = compute_head_budgets(composed("head_budgets", *overrides(inputs, tmp_path)))
    lm = BeaconLM.from_pretrained(str(inputs[0]), BeaconConfig(window=32, placement="interleave")).eval()
    lines = inputs[1].read_text().splitlines()[:3]
    *texts, prompt = byte_tokenizer()([*(yaml.safe_load(line)["text"] for line in lines), PROMPT])["input_ids"]
    importance = torch.cat([repetition_importance(lm.model, text[:100], prompt) for text in texts], -1)
    assert found == head_budgets(importance.numpy(), 4, 0.5, 3)
    assert len({share for row in found for share in row}) == 3
    page = (tmp_path / "beacon" / "head_budgets.yaml").read_text()
    assert capsys.readouterr().out == page
    assert yaml.safe_load(page) == {"defaults": ["select"], "head_budgets": [list(row) for row in found]}
    assert compute_head_budgets(composed("head_budgets", *overrides(inputs, tmp_path / "again"))) == found


def test_training_takes_the_file_as_an_option_and_the_shares_as_a_value(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    budgets = compute_head_budgets(composed("head_budgets", *overrides(inputs, tmp_path)))
    options = ["--config-dir", str(tmp_path), "--cfg", "job"]
    chosen = ["beacon=head_budgets", "experiment=qwen2_5_coder"]
    command = [warm_python(), str(ROOT / "train.py"), *options, *chosen]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    beacon = yaml.safe_load(done.stdout)["beacon"]
    assert beacon["placement"] == "select" and beacon["head_budgets"] == [list(row) for row in budgets]
    value = f"beacon.head_budgets={[list(row) for row in budgets]}"
    run = [*small_run(*inputs, tmp_path / "run"), value, "trainer.max_steps=1", "~callbacks.evaluation"]
    train(composed("train", *run))
    assert BeaconLM.from_pretrained(str(tmp_path / "run" / "beacons")).beacon.head_budgets == budgets


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("length=1020", r"length=1020 is not allowed: .* has 2048 positions; allowed: at most 1008"),
        ("length=1000", "length=1000 is not allowed; allowed: at most 6"),
        ("length=1", "length=1 is not allowed; allowed: an integer, at least 2"),
        ("pieces=0", "pieces=0 is not allowed; allowed: an integer, at least 1"),
        ("ratio=[2,4]", "ratio=.* is not allowed; allowed: an integer, at least 2"),
        ("even=0", "even=0 is not allowed: every head needs a share above 0; allowed: 0.01 to 1"),
        ("groups=2.5", "groups=2.5 is not allowed; allowed: an integer, at least 1"),
    ],
)
def test_a_mistake_is_named(more: str, message: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        compute_head_budgets(composed("head_budgets", *overrides(inputs, tmp_path), more))


def test_a_mistake_on_the_command_line_is_one_line(tmp_path: Path) -> None:
    command = [warm_python(), str(ROOT / "head_budgets.py"), "model=tiny", "length=3000"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: length=3000 is not allowed")
