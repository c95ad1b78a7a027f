"""Runs of train.py and evaluate.py on several processes of this machine, as a user starts them."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from benchmarks.distributed import launch
from tests.configs import ROOT, small_run
from tests.warm import warm_python

TIMEOUT = 300  # seconds
GPU_NODES = 1 if torch.cuda.device_count() > 1 else 2  # two ranks on one GPU pass for two machines


def torchrun(
    ranks: int,
    *overrides: str,
    check: bool = True,
    script: str = "train.py",
    folder: Path | None = None,
    nodes: int = 1,
    accelerator: str = "cpu",
) -> subprocess.CompletedProcess:
    """`torchrun SCRIPT OVERRIDES` in a folder (default: an empty one), with what it printed: so many ranks, spread over
    `nodes`."""
    prefix = "" if script == "evaluate.py" else "trainer."
    devices = [f"{prefix}devices={ranks // nodes}", f"{prefix}num_nodes={nodes}", f"{prefix}accelerator={accelerator}"]
    command = [str(ROOT / script), *overrides, *devices]
    python = warm_python() if accelerator == "cpu" else sys.executable
    with TemporaryDirectory() as empty:  # for the log, which Hydra puts into `outputs` although `run_folder` is given
        where = folder or Path(empty)
        done = launch.torchrun(command, nodes, ranks // nodes, where, environment(accelerator), TIMEOUT, python)
    stdout, stderr = "".join(of_node.stdout for of_node in done), "".join(of_node.stderr for of_node in done)
    code = next((of_node.returncode for of_node in done if of_node.returncode), 0)
    if check:
        assert code == 0, stdout + stderr
    return subprocess.CompletedProcess(command, code, stdout, stderr)


def environment(accelerator: str = "cpu") -> dict[str, str]:
    """This process's; for gloo and DeepSpeed on CPUs of this machine alone."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    on_cpu = {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo"} if accelerator == "cpu" else {}
    return {**os.environ, **on_cpu, "PYTHONPATH": path}


def overrides(strategy: str, backbone: Path, text: Path, folder: Path) -> list[str]:
    """Of a short run under a strategy, without evaluation; two batches to an optimizer step on each of two ranks.

    Beacons are inserted: what is selected among raw tokens would change with the last bits, in which strategies differ.
    """
    return [
        *small_run(backbone, text, folder), "beacon=interleave", "ratio=[4]",
        f"trainer={strategy}", "trainer.accelerator=cpu", "trainer.max_steps=4", "trainer.accumulate_grad_batches=2",
        "model.backbone.dtype=float32", "logger=csv", "~callbacks.evaluation", "optimizer.lr=3e-3",
        "data.validation=[]", "schedule.name=constant",
    ]  # fmt: skip


def losses(folder: Path) -> list[float]:
    """The training loss of every step."""
    with (folder / "csv" / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]


def beacons(folder: Path) -> dict[str, Tensor]:
    """What was trained."""
    return load_file(folder / "beacons" / "beacon.safetensors")


def check_same_training(
    spread: Path, alone: Path, first: int = 0, *, steps: int = 4, loss: float = 1e-4, weight: float = 3e-4
) -> None:
    """A run had the losses of another from its step `first` on, but for a share `loss` of them, and ended after `steps`
    with the same beacons, but for `weight`, and the same state of their optimizer."""
    assert_close(losses(spread), losses(alone)[first:], rtol=loss, atol=0)
    own, theirs = beacons(spread), beacons(alone)
    assert own.keys() == theirs.keys()
    for name in own:
        assert_close(own[name], theirs[name], rtol=0, atol=weight, msg=name)
    one, two = (
        torch.load(folder / "checkpoints" / "last.ckpt", "cpu", weights_only=True) for folder in (alone, spread)
    )
    assert one["state_dict"].keys() == two["state_dict"].keys()
    assert all(value.dtype == torch.float32 for value in two["state_dict"].values())
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (one, two)]
    assert states[0].keys() == states[1].keys()
    for index, values in states[0].items():
        assert values.keys() == states[1][index].keys()
        assert values["step"] == states[1][index]["step"] == steps
        assert states[1][index]["exp_avg"].dtype == torch.float32
        assert_close(states[1][index]["exp_avg"], values["exp_avg"], rtol=100 * loss, atol=weight / 30)
