"""Every strategy trains what one process trains: the same losses, the same weights, one form of checkpoint."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tests.configs import composed, small_backbone, small_text
from tests.distributed.runs import beacons, losses, overrides, torchrun
from train import train

STRATEGIES = ["ddp", "deepspeed_stage2", "deepspeed_stage3", "fsdp2"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return small_backbone(folder / "backbone"), small_text(folder / "text.jsonl", 40)


@pytest.fixture(scope="module")
def alone(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one process: four batches to an optimizer step."""
    folder = tmp_path_factory.mktemp("alone")
    settings = [*overrides("cpu", *inputs, folder), "trainer.accumulate_grad_batches=4"]
    train(composed("train", *settings))
    return folder


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_train_what_one_does(strategy: str, alone: Path, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    torchrun(2, *overrides(strategy, *inputs, tmp_path))
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
