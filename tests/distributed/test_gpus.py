"""On GPUs, through NCCL: every strategy trains on two ranks what one GPU trains, in float32 and on a bf16 backbone.

With one GPU the two ranks share it, as nodes of their own (`benchmarks.distributed.launch`).
"""

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.counting import check_gathers
from tests.distributed.faults import fault
from tests.distributed.runs import GPU_NODES, check_same_training, overrides, torchrun
from tests.distributed.test_watched import TASKS, evaluating, timeless

pytestmark = pytest.mark.gpu
STRATEGIES = ["ddp", "deepspeed_stage2", "deepspeed_stage3", "deepspeed_stage3_offload", "fsdp2"]
KEEP = ["callbacks.checkpoint.every_n_train_steps=2", "callbacks.checkpoint.save_top_k=-1"]
# Of how much losses and weights may differ: adding up gradients in another order, and what follows from it.
NEAR: dict[str, dict[str, Any]] = {"float32": {}, "bfloat16": {"loss": 2e-3, "weight": 6e-3}}
Runs = Callable[[str, str], Path]
on_one_gpu = partial(torchrun, 1, accelerator="gpu")
on_gpus = partial(torchrun, 2, accelerator="gpu", nodes=GPU_NODES)


@pytest.fixture(scope="module")
def runs(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The folder of a strategy's run on a backbone of a dtype, made when it is first asked for. "gpu" is one GPU with
    all four batches of a step, the others are two ranks with two."""

    @cache
    def run(strategy: str, dtype: str) -> Path:
        folder = tmp_path_factory.mktemp(f"{strategy}-{dtype}")
        settings = [*overrides(strategy, *inputs, folder), *KEEP, f"model.backbone.dtype={dtype}"]
        if strategy == "gpu":
            on_one_gpu(*settings, "trainer.accumulate_grad_batches=4")
        else:
            on_gpus(*settings)
        return folder

    return run


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_train_what_one_gpu_does(strategy: str, dtype: str, runs: Runs) -> None:
    check_same_training(runs(strategy, dtype), runs("gpu", dtype), **NEAR[dtype])
    last = torch.load(runs(strategy, dtype) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert any((value != value.bfloat16()).any() for value in last.values()), "what is trained was never in bf16"


@pytest.mark.parametrize(
    ("first", "then"), [("deepspeed_stage3", "fsdp2"), ("fsdp2", "deepspeed_stage3"), ("gpu", "deepspeed_stage2")]
)
def test_any_strategy_goes_on_where_another_stopped(
    first: str, then: str, runs: Runs, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    checkpoint = runs(first, "float32") / "checkpoints" / "step-000002.ckpt"
    on_gpus(*overrides(then, *inputs, tmp_path), *KEEP, f"resume={checkpoint}")
    check_same_training(tmp_path, runs("gpu", "float32"), first=2)


@pytest.mark.parametrize("strategy", ["deepspeed_stage3", "fsdp2"])
def test_parameters_are_gathered_once_a_pass_and_not_once_a_window(
    strategy: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    check_gathers(on_gpus, strategy, inputs, tmp_path)


@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_stage3", "fsdp2"])
def test_evaluating_on_the_way_disturbs_nothing_and_finds_what_one_gpu_does(
    strategy: str, runs: Runs, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    watched, after = tmp_path / "watched", tmp_path / "after"
    on_gpus(*evaluating(overrides(strategy, *inputs, watched), inputs[1], every=2), *KEEP)
    check_same_training(watched, runs("gpu", "float32"))
    read = [f"checkpoint={watched}", "model.backbone.dtype=float32", "data=text", "data.max_length=160"]
    on_one_gpu(
        *read, f"data.validation=[{inputs[1]}]", "batch_size=2", *TASKS, f"run_folder={after}", script="evaluate.py"
    )
    found, expected = (timeless(json.loads((path / "metrics.json").read_text())) for path in (watched, after))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_stage3", "fsdp2"])
def test_a_signal_to_one_rank_ends_all_with_a_checkpoint(
    strategy: str, runs: Runs, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    cut, rest = tmp_path / "cut", tmp_path / "rest"
    assert on_gpus(*overrides(strategy, *inputs, cut), *fault(1, 3, "SIGTERM"), check=False).returncode
    (file,) = (cut / "checkpoints").glob("*.ckpt")
    stopped = torch.load(file, weights_only=True)["global_step"]
    assert stopped in (2, 3), "after the step of the fourth batch, or the next"
    on_gpus(*overrides(strategy, *inputs, rest), *KEEP, f"resume={file}")
    check_same_training(rest, runs("gpu", "float32"), first=stopped)


@pytest.mark.parametrize(("strategy", "how"), [("ddp", "raise"), ("deepspeed_stage3", "SIGKILL"), ("fsdp2", "SIGKILL")])
def test_a_rank_that_fails_ends_the_run(strategy: str, how: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    done = on_gpus(*overrides(strategy, *inputs, tmp_path), *fault(1, 3, how), check=False)
    failed = min(re.findall(r"time      : (\S+)", done.stderr))
    assert done.returncode and datetime.now() - datetime.strptime(failed, "%Y-%m-%d_%H:%M:%S") < timedelta(minutes=1)
    assert "rank      : 1 (local_rank: " in done.stderr
    assert how == "SIGKILL" or "rank 1 has failed" in done.stdout + done.stderr
    assert not list(tmp_path.glob("beacons/*"))


def test_another_step_is_told_apart(runs: Runs) -> None:
    """The control of what the tests above allow."""
    folder = runs("gpu", "bfloat16") / "checkpoints"
    early, last = (torch.load(folder / f"{name}.ckpt", weights_only=True) for name in ("step-000002", "last"))
    moved = [(last["state_dict"][name] - value).abs().max() for name, value in early["state_dict"].items()]
    assert max(moved) > NEAR["bfloat16"]["weight"] / 2
