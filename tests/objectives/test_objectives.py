"""Objectives, alone and through the main job."""

import csv
from pathlib import Path

import pytest
import torch

from beacon_lit import BeaconConfig
from beacon_lit.arch import Teacher
from beacon_lit.cli.train import train
from beacon_lit.objectives import Distillation, LanguageModeling
from tests.arch.tiny import gradients, tiny
from tests.configs import composed, small_backbone, small_run, small_text
from tests.distributed.runs import overrides, torchrun
from tests.objectives.batches import batch

BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, overlap=3, placement="interleave")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", [False, True])
def test_distillation_with_alpha_0_is_language_modeling(trained: bool, dtype: torch.dtype) -> None:
    lm = tiny("qwen2", BEACON, dtype=dtype)
    lm.lm_head.requires_grad_(trained)
    (expected, none), (actual, parts) = (
        objective(lm, batch(), 2) for objective in (LanguageModeling(), Distillation(alpha=0))
    )
    assert torch.equal(actual, expected) and not none and parts["kl"].any()
    wanted = gradients(lm, expected.sum())
    for name, gradient in gradients(lm, actual.sum()).items():
        assert torch.equal(gradient, wanted[name]), name


@pytest.mark.parametrize(("alpha", "temperature"), [(0.3, 1.0), (1.0, 2.0), (0.5, 0.5)])
def test_distillation_weighs_cross_entropy_and_divergence(alpha: float, temperature: float) -> None:
    lm = tiny("qwen2", BEACON)
    loss, parts = Distillation(alpha, Teacher(temperature))(lm, batch(), 2)
    assert loss.dtype == torch.float32 and loss.shape == (2, 30)
    expected = (1 - alpha) * parts["cross_entropy"] + alpha * temperature**2 * parts["kl"]
    torch.testing.assert_close(loss, expected)
    assert torch.equal(parts["cross_entropy"], LanguageModeling()(lm, batch(), 2)[0])
    assert not any(part.requires_grad for part in parts.values())


def test_behind_what_the_teacher_reads_tokens_count_in_full() -> None:
    lm = tiny("qwen2", BEACON)
    loss, parts = Distillation(1.0, Teacher(length=15))(lm, batch(), 2)
    plain = LanguageModeling()(lm, batch(), 2)[0]
    assert torch.equal(loss[:, 16:], plain[:, 16:]) and torch.equal(loss[:, :16], parts["kl"][:, :16])
    assert loss[0, 15] != plain[0, 15]


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_shares_that_are_none(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"alpha={alpha}"):
        Distillation(alpha)


def curves(file: Path) -> dict[str, list[float]]:
    """The columns of a CSV log."""
    found: dict[str, list[float]] = {}
    for row in csv.DictReader(file.open()):
        for name, value in row.items():
            found.setdefault(name, []).extend([float(value)] if value else [])
    return found


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return small_backbone(folder / "backbone"), small_text(folder / "text.jsonl", documents=2)


def short_run(inputs: tuple[Path, Path], folder: Path, *overrides: str) -> tuple[dict[str, float], dict]:
    settings = [*small_run(*inputs, folder), "logger=csv", "~callbacks.evaluation", "seed=3", *overrides]
    return train(composed("train", *settings)), curves(folder / "csv" / "metrics.csv")


def test_training_comes_closer_to_the_dense_backbone(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    settings = ["objective=distill", "objective.alpha=1", "objective.teacher.temperature=2", "ratio=2"]
    settings += ["trainer.max_steps=24", "optimizer.lr=1e-2", "schedule.num_warmup_steps=0"]
    _, curve = short_run(inputs, tmp_path, *settings)
    assert sum(curve["train/loss"][-4:]) < 0.75 * sum(curve["train/loss"][:4])
    for loss, kl in zip(curve["train/loss"], curve["train/kl"], strict=True):
        assert loss == pytest.approx(4 * kl, rel=1e-5)
    assert len(curve["train/cross_entropy"]) == 24


@pytest.mark.parametrize("strategy", ["deepspeed_stage3", "fsdp2"])
def test_two_ranks_learn_what_one_does(strategy: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    inputs = inputs[0], small_text(tmp_path / "text.jsonl")
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    settings = ["objective=distill", "objective.teacher.length=100", "trainer.max_steps=3"]
    train(composed("train", *overrides("cpu", *inputs, alone), *settings, "trainer.accumulate_grad_batches=4"))
    torchrun(2, *overrides(strategy, *inputs, spread), *settings)
    expected, actual = (curves(folder / "csv" / "metrics.csv") for folder in (alone, spread))
    for name in ("train/loss", "train/kl", "train/cross_entropy"):
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=0)
    assert expected["train/loss"] != expected["train/cross_entropy"] and len(expected["train/kl"]) == 3


def test_validation_is_cross_entropy(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    settings = ["optimizer.lr=0", "trainer.max_steps=2", "trainer.limit_val_batches=2", "trainer.val_check_interval=1"]
    plain, plain_curve = short_run(inputs, tmp_path / "lm", *settings)
    distilled, curve = short_run(inputs, tmp_path / "distill", *settings, "objective=distill")
    assert distilled["val/loss"] == plain["val/loss"] > 0
    assert curve["train/cross_entropy"] == plain_curve["train/loss"] != curve["train/loss"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.alpha=2", "alpha=2 is not allowed"),
        ("objective.teacher.temperature=0", "temperature=0 is not allowed"),
        ("objective.teacher.length=0", "length=0 is not allowed"),
    ],
)
def test_bad_settings_end_the_run(override: str, message: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(Exception, match=message):
        short_run(inputs, tmp_path, "objective=distill", override)
