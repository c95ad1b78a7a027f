"""How a run on several ranks ends: asked to, or because one of them is gone."""

import json
import pickle
import signal
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch

from beacon_lit.cli.train import train
from beacon_lit.strategies.atomic import AtomicCheckpointIO
from tests.configs import ROOT, composed
from tests.distributed.faults import fault
from tests.distributed.runs import environment, losses, overrides, torchrun
from tests.warm import warm_python

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_stage3"])
def test_a_signal_to_one_rank_ends_all_with_a_checkpoint(
    strategy: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = [*overrides(strategy, *inputs, tmp_path / "cut"), "trainer.max_steps=6"]
    done = torchrun(2, *settings, *fault(1, 3, "SIGTERM"), check=False)
    assert done.returncode
    (file,) = (tmp_path / "cut" / "checkpoints").glob("*.ckpt")
    stopped = torch.load(file, weights_only=True)["global_step"]
    assert stopped in (2, 3), "after the step of the fourth batch, or the next"
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    train(
        composed("train", *overrides("cpu", *inputs, whole), "trainer.max_steps=6", "trainer.accumulate_grad_batches=4")
    )
    torchrun(2, *overrides(strategy, *inputs, rest), "trainer.max_steps=6", f"resume={file}")
    assert losses(tmp_path / "cut") + losses(rest) == pytest.approx(losses(whole), rel=1e-4)


def test_a_run_killed_in_a_save_leaves_the_checkpoint_before(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    settings = [*overrides("cpu", *inputs, tmp_path), "callbacks.checkpoint.every_n_train_steps=1"]
    command = [warm_python(), ROOT / "train.py", *settings, *fault(0, 5, "killed in a save")]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list((tmp_path / "checkpoints").glob(".*.part")), "the third checkpoint was begun"
    (file,) = (tmp_path / "checkpoints").glob("*.ckpt")
    assert torch.load(file, weights_only=True)["global_step"] == 2
    train(composed("train", *settings, f"resume={file}"))


def test_a_save_that_fails_leaves_the_checkpoint_before_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, file)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        AtomicCheckpointIO().save_checkpoint({"step": 2, "unpicklable": lambda: None}, file)
    assert torch.load(file) == {"step": 1} and [*tmp_path.iterdir()] == [file]


@pytest.mark.parametrize(("how", "step"), [("SIGTERM", 2), ("unheard SIGTERM", 3)])
def test_a_signal_ends_a_single_process_with_a_checkpoint(
    how: str, step: int, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = overrides("cpu", *inputs, tmp_path)
    command = [warm_python(), ROOT / "train.py", *settings, *fault(0, 3, how)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 143, done.stderr
    (file,) = (tmp_path / "checkpoints").glob("*.ckpt")
    assert torch.load(file, weights_only=True)["global_step"] == step
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "stopped"


@pytest.mark.parametrize(
    ("launcher", "how", "rank"),
    [("torchrun", "raise", 1), ("torchrun", "SIGKILL", 0), ("lightning", "raise", 0), ("lightning", "exit", 1)],
)
def test_a_rank_that_fails_ends_the_run(
    launcher: str, how: str, rank: int, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = [*overrides("ddp", *inputs, tmp_path), *fault(rank, 3, how)]
    start = time.monotonic()
    if launcher == "torchrun":
        done = torchrun(2, *settings, check=False)
    else:
        command = [warm_python(), ROOT / "train.py", *settings, "trainer.devices=2"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode and time.monotonic() - start < 80
    said = done.stdout + done.stderr
    if how == "raise":
        assert f"rank {rank} has failed" in said
    elif launcher == "torchrun":
        assert f"rank      : {rank} (local_rank: {rank})" in said
    assert not list(tmp_path.glob("beacons/*"))


def test_processes_that_know_nothing_of_each_other_are_refused(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    settings = [*overrides("cpu", *inputs, tmp_path), "trainer.devices=1"]
    command = [warm_python(), *TORCHRUN, ROOT / "train.py", *settings]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    said = "trainer.devices x trainer.num_nodes = 1 is not allowed where 2 processes were started; allowed: 2"
    assert done.returncode and said in done.stderr, done.stderr
    assert not (tmp_path / "beacons").exists()


def test_ranks_that_torchrun_starts_share_a_folder(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    settings = [setting for setting in overrides("ddp", *inputs, tmp_path) if not setting.startswith("run_folder=")]
    command = [warm_python(), *TORCHRUN, ROOT / "train.py"]
    subprocess.run(
        [*command, *settings, "trainer.devices=2", "trainer.max_steps=1"], cwd=tmp_path, env=environment(),
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    (day,) = (folder for folder in (tmp_path / "outputs").iterdir() if not folder.is_symlink())
    (run,) = day.iterdir()
    assert (run / "beacons").is_dir() and (tmp_path / "outputs" / "latest").resolve() == run.resolve()
    now = datetime.now()
    assert abs(datetime.strptime(f"{day.name} {run.name}", "%Y-%m-%d %H-%M-%S") - now) < timedelta(minutes=2)
