"""Several machines: their processes find each other, train what one process trains, and end together."""

import os
import time
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from beacon_lit.cli.train import train
from benchmarks.distributed.launch import free_port, side_by_side
from tests.configs import ROOT, composed
from tests.distributed.faults import fault
from tests.distributed.runs import TIMEOUT, check_same_training, environment, overrides, torchrun
from tests.warm import warm_python


@pytest.fixture(scope="module")
def alone(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    train(composed("train", *overrides("cpu", *inputs, folder), "trainer.accumulate_grad_batches=4"))
    return folder


@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_stage3", "fsdp2"])
def test_two_torchruns_train_what_one_process_does(
    strategy: str, alone: Path, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    torchrun(2, *overrides(strategy, *inputs, tmp_path), nodes=2)
    check_same_training(tmp_path, alone)


def test_tasks_of_slurm_train_what_one_process_does(alone: Path, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    done = srun(*overrides("ddp", *inputs, tmp_path / "run"), folder=tmp_path)
    assert [task.returncode for task in done] == [0, 0], done
    check_same_training(tmp_path / "run", alone)


def test_sigterm_of_slurm_saves_and_ends_every_task(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    settings = [*overrides("ddp", *inputs, tmp_path / "run"), *fault(1, 3, "SIGTERM")]
    done = srun(*settings, folder=tmp_path)
    assert [task.returncode for task in done] == [143, 143], done
    assert len(list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))) == 1


@pytest.mark.parametrize("how", ["raise", "SIGKILL"])
def test_a_rank_that_fails_ends_the_run_on_all_nodes(how: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    start = time.monotonic()
    done = torchrun(2, *overrides("ddp", *inputs, tmp_path), *fault(1, 3, how), nodes=2, check=False)
    assert done.returncode and time.monotonic() - start < 80
    assert "rank      : 1 (local_rank: 0)" in done.stderr
    assert how == "SIGKILL" or "rank 1 has failed" in done.stdout + done.stderr
    assert not list(tmp_path.glob("beacons/*"))


def srun(*settings: str, folder: Path) -> list[CompletedProcess]:
    """`srun python train.py SETTINGS` with two tasks on two nodes, as SLURM tells them who they are."""
    (folder / "srun").touch(mode=0o755)
    of_all = {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "MASTER_PORT": str(free_port()), "SLURM_LOCALID": "0",
        "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1", "SLURM_NNODES": "2",
        "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "1",
    }  # fmt: skip
    tasks = [{**environment(), **of_all, "SLURM_PROCID": str(node), "SLURM_NODEID": str(node)} for node in range(2)]
    command = [warm_python(), str(ROOT / "train.py"), *settings, "trainer.devices=1", "trainer.num_nodes=2"]
    return side_by_side(command, tasks, folder, TIMEOUT)
