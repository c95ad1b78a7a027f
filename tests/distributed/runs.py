"""Runs of train.py and evaluate.py on several processes of this machine, as a user starts them."""

import csv
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from tests.configs import ROOT, small_run

TIMEOUT = 300  # seconds
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def torchrun(
    ranks: int, *overrides: str, check: bool = True, script: str = "train.py", folder: Path = ROOT
) -> subprocess.CompletedProcess:
    """`torchrun --nproc-per-node=RANKS SCRIPT OVERRIDES` in a folder, with what it printed."""
    devices = f"devices={ranks}" if script == "evaluate.py" else f"trainer.devices={ranks}"
    command = [*TORCHRUN, f"--nproc-per-node={ranks}", str(ROOT / script), *overrides, devices]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def environment() -> dict[str, str]:
    """This process's, for gloo and DeepSpeed on CPUs of this machine alone."""
    return {**os.environ, "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}


def overrides(strategy: str, backbone: Path, text: Path, folder: Path) -> list[str]:
    """Of a short run under a strategy, without evaluation; two batches to an optimizer step on each of two ranks."""
    return [
        *small_run(backbone, text, folder), f"trainer={strategy}", "trainer.accelerator=cpu", "ratio=[4]",
        "model.backbone.dtype=float32", "logger=csv", "~callbacks.evaluation", "optimizer.lr=3e-3",
        "data.validation=[]", "schedule.name=constant", "trainer.max_steps=4", "trainer.accumulate_grad_batches=2",
    ]  # fmt: skip


def losses(folder: Path) -> list[float]:
    """The training loss of every step."""
    with (folder / "csv" / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]


def beacons(folder: Path) -> dict[str, Tensor]:
    """What was trained."""
    return load_file(folder / "beacons" / "beacon.safetensors")
