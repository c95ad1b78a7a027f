"""Every strategy trains what one process trains: the same losses, the same weights, one form of checkpoint."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
from hydra.utils import instantiate

from beacon_lit.cli.train import train
from beacon_lit.strategies import deepspeed as deepspeed_strategy
from beacon_lit.strategies.deepspeed import ZeroStrategy
from tests.configs import composed
from tests.distributed.counting import check_gathers
from tests.distributed.generating import CachedLoss
from tests.distributed.runs import check_same_training, losses, overrides, torchrun

STRATEGIES = ["ddp", "deepspeed_stage2", "deepspeed_stage3", "deepspeed_stage3_offload", "fsdp2"]


Runs = Callable[[str], Path]


@pytest.fixture(scope="module")
def runs(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The folder of a strategy's run, made when it is first asked for: four steps of four batches, a checkpoint after
    two steps. "cpu" is one process, the others are two."""

    @cache
    def run(strategy: str) -> Path:
        folder = tmp_path_factory.mktemp(strategy)
        settings = [*overrides(strategy, *inputs, folder), "callbacks.checkpoint.every_n_train_steps=2"]
        settings += ["callbacks.checkpoint.save_top_k=-1"]
        unpinned = ["trainer.strategy.pin_memory=false"] if "offload" in strategy else []  # there is no GPU to pin for
        go_on(strategy, *settings, *unpinned)
        return folder

    return run


def go_on(strategy: str, *settings: str) -> None:
    """Train with two ranks, or with one process and as many batches to a step."""
    if strategy == "cpu":
        train(composed("train", *settings, "trainer.accumulate_grad_batches=4"))
    else:
        torchrun(2, *settings)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_train_what_one_does(strategy: str, runs: Runs) -> None:
    check_same_training(runs(strategy), runs("cpu"))


@pytest.mark.parametrize(
    ("first", "then"),
    [("deepspeed_stage3", "cpu"), ("fsdp2", "deepspeed_stage2"), ("ddp", "fsdp2"), ("cpu", "deepspeed_stage3")],
)
def test_any_strategy_goes_on_where_another_stopped(
    first: str, then: str, runs: Runs, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    go_on(then, *overrides(then, *inputs, tmp_path), f"resume={runs(first)}/checkpoints/step-000002.ckpt")
    check_same_training(tmp_path, runs("cpu"), first=2)


@pytest.mark.parametrize("strategy", ["deepspeed_stage3", "fsdp2"])
def test_parameters_are_gathered_once_a_pass_and_not_once_a_window(
    strategy: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    check_gathers(partial(torchrun, 2), strategy, inputs, tmp_path)


def test_a_training_step_may_make_a_cache(runs: Runs, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    """DeepSpeed has asked for weights ahead by then."""
    cached = f"objective._target_={CachedLoss.__module__}.CachedLoss"
    torchrun(2, *overrides("deepspeed_stage3", *inputs, tmp_path), cached)
    assert losses(tmp_path) == pytest.approx(losses(runs("cpu")), rel=1e-4)


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
    settings = [*overrides("deepspeed_stage2", *inputs, tmp_path), "trainer.precision=bf16-true", "trainer.devices=1"]
    trainer = instantiate(composed("train", *settings).trainer)
    with pytest.raises(ValueError, match=r"trainer\.precision=bf16-true is not allowed with DeepSpeed"):
        trainer.strategy.setup(trainer)
