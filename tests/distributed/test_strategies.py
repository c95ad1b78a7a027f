"""Every strategy trains what one process trains: the same losses, the same weights, one form of checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from beacon_lit.strategies import deepspeed as deepspeed_strategy
from beacon_lit.strategies.deepspeed import ZeroStrategy
from evaluate import evaluate
from tests.configs import composed
from tests.distributed.counting import counting
from tests.distributed.runs import beacons, losses, overrides, torchrun
from train import train

STRATEGIES = ["ddp", "deepspeed_stage2", "deepspeed_stage3", "deepspeed_stage3_offload", "fsdp2"]


@pytest.fixture(scope="module")
def alone(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one process: four batches to an optimizer step."""
    folder = tmp_path_factory.mktemp("alone")
    settings = [*overrides("cpu", *inputs, folder), "trainer.accumulate_grad_batches=4"]
    train(composed("train", *settings))
    return folder


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_train_what_one_does(strategy: str, alone: Path, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    unpinned = ["trainer.strategy.pin_memory=false"] if "offload" in strategy else []  # there is no GPU to pin for
    torchrun(2, *overrides(strategy, *inputs, tmp_path), *unpinned)
    assert_close(losses(tmp_path), losses(alone), rtol=1e-4, atol=0)
    own, theirs = beacons(tmp_path), beacons(alone)
    assert own.keys() == theirs.keys()
    for name in own:
        assert_close(own[name], theirs[name], rtol=0, atol=3e-4, msg=name)
    one, two = (torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (alone, tmp_path))
    assert one["state_dict"].keys() == two["state_dict"].keys()
    states = [checkpoint["optimizer_states"][0] for checkpoint in (one, two)]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for index, values in states[0]["state"].items():
        assert values.keys() == states[1]["state"][index].keys()
        assert values["step"] == states[1]["state"][index]["step"] == 4
        assert_close(states[1]["state"][index]["exp_avg"], values["exp_avg"], rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(
    ("first", "then"),
    [("deepspeed_stage3", "cpu"), ("fsdp2", "deepspeed_stage2"), ("ddp", "fsdp2"), ("cpu", "deepspeed_stage3")],
)
def test_any_strategy_goes_on_where_another_stopped(
    first: str, then: str, alone: Path, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    folders = tmp_path / "first", tmp_path / "then"
    for strategy, folder, extra in zip(
        (first, then),
        folders,
        (
            ["callbacks.checkpoint.every_n_train_steps=2", "trainer.max_steps=3"],
            [f"resume={folders[0]}/checkpoints/step-000002.ckpt"],
        ),
        strict=True,
    ):
        settings = [*overrides(strategy, *inputs, folder), *extra]
        if strategy == "cpu":
            train(composed("train", *settings, "trainer.accumulate_grad_batches=4"))
        else:
            torchrun(2, *settings)
    assert_close(losses(folders[1]), losses(alone)[2:], rtol=1e-4, atol=0)
    own, theirs = beacons(folders[1]), beacons(alone)
    for name in own:
        assert_close(own[name], theirs[name], rtol=0, atol=3e-4, msg=name)


@pytest.mark.parametrize("strategy", ["deepspeed_stage3", "fsdp2"])
def test_parameters_are_gathered_once_a_pass_and_not_once_a_window(
    strategy: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    found = []
    for length in (64, 480):
        settings = [*overrides(strategy, *inputs, tmp_path / str(length)), "trainer.accumulate_grad_batches=1"]
        settings += [f"data.max_length={length}", "data.min_length=33", *counting(tmp_path / f"{length}.json")]
        torchrun(2, *settings)
        found.append(json.loads((tmp_path / f"{length}.json").read_text()))
    few, many = found
    assert few["windows"] <= 2 and many["windows"] >= 10
    assert few["counts"] == many["counts"]
    assert any("allgather" in name for name in few["counts"])
    assert "c10d::barrier" not in few["counts"], "it would hold the host"


@pytest.mark.parametrize("strategy", ["deepspeed_stage3", "fsdp2"])
def test_evaluation_on_the_way_disturbs_nothing(
    strategy: str, alone: Path, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    left_out = ("~callbacks.evaluation", "data.validation=[]")
    settings = [setting for setting in overrides(strategy, *inputs, tmp_path) if setting not in left_out]
    torchrun(2, *settings, "callbacks.evaluation.every_n_steps=2")
    assert_close(losses(tmp_path), losses(alone), rtol=1e-4, atol=0)
    found = json.loads((tmp_path / "metrics.json").read_text())
    checked = ["data=text", f"data.validation=[{inputs[1]}]", "data.max_length=160", "task=[perplexity,passkey]"]
    checked += [setting for setting in settings if setting.startswith("task.")]
    expected = evaluate(composed("evaluate", f"checkpoint={tmp_path}", *checked, f"run_folder={tmp_path}/after"))
    for name in ("perplexity/ratio_4", "perplexity/dense", "perplexity/window-only", "passkey/ratio_4"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name


@pytest.mark.parametrize("strategy", ["deepspeed_stage2", "fsdp2"])
def test_a_run_of_epochs_goes_on_where_it_stopped(strategy: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    epochs = ["trainer.max_epochs=2", "schedule.name=linear", "callbacks.checkpoint.every_n_train_steps=2"]
    keep = [*epochs, "callbacks.checkpoint.save_top_k=-1"]
    train(composed("train", *overrides("cpu", *inputs, whole), *keep))
    torchrun(1, *overrides(strategy, *inputs, rest), *epochs, f"resume={whole}/checkpoints/step-000002.ckpt")
    assert losses(rest) == pytest.approx(losses(whole)[2:], rel=1e-4)


def test_deepspeed_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="stage=4 is not allowed; allowed: 1, 2, 3"):
        ZeroStrategy(stage=4)
    monkeypatch.setattr(deepspeed_strategy, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'beacon_lit\[deepspeed\]'"):
        ZeroStrategy()


def test_deepspeed_takes_no_other_precision(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    settings = [*overrides("deepspeed_stage2", *inputs, tmp_path), "trainer.precision=bf16-true"]
    done = torchrun(1, *settings, check=False)
    assert done.returncode and "trainer.precision=bf16-true is not allowed with DeepSpeed" in done.stderr
