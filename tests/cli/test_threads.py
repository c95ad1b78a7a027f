"""A command has the threads that its share of the cores allows, and the user's own where these are set."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.configs import ROOT, small_run
from tests.warm import warm_python

LIMITS = ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS", "RAYON_NUM_THREADS")

# train.py on a machine that seems to have 64 cores and, while threads are counted, GPUs.
START = """
import json, os, sys
from pathlib import Path
from unittest.mock import patch
import torch
import torch._inductor.config as inductor

if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(64)
os.sched_getaffinity = lambda process: set(range(64))
from beacon_lit.cli import command, train
from beacon_lit.data import loader

folder, gpus = Path(sys.argv.pop(1)), int(sys.argv.pop(1))
limit_threads, collate = command.limit_threads, loader.collate

def as_if_with_gpus(cfg):
    with patch("torch.cuda.is_available", lambda: gpus > 0), patch("torch.cuda.device_count", lambda: gpus):
        limit_threads(cfg)

def team():
    before = len(os.listdir("/proc/self/task"))
    torch.rand(2000, 2000).add_(1)  # large enough for all threads
    return len(os.listdir("/proc/self/task")) - before + 1

class End(train.SaveAtEnd):
    def on_fit_start(self, trainer, module):
        names = ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS", "RAYON_NUM_THREADS")
        found = {"compute": torch.get_num_threads(), "team": team(), "compile": inductor.compile_threads}
        (folder / "main").write_text(json.dumps(found | {name: os.environ.get(name) for name in names}))

def collate_in_worker(samples, pad_id):
    (folder / "worker").write_text(json.dumps([torch.get_num_threads(), team()]))
    return collate(samples, pad_id)

command.limit_threads, loader.collate, train.SaveAtEnd = as_if_with_gpus, collate_in_worker, End
train.main()
"""


def started(folder: Path, inputs: tuple[Path, Path], *more: str, gpus: int = 1, **given: str) -> tuple[dict, list[int]]:
    """The threads of training, and those of a worker that loads data."""
    python = sys.executable if "OMP_NUM_THREADS" in given else warm_python()  # read when torch is imported
    line = [python, "-c", START, str(folder), str(gpus), *small_run(*inputs, folder), "data.num_workers=1"]
    off = ["callbacks.evaluation=null", "logger=none", "trainer.max_steps=1", "trainer.accelerator=auto", *more]
    environ = (
        {name: value for name, value in os.environ.items() if name not in LIMITS} | {"PYTHONPATH": str(ROOT)} | given
    )
    done = subprocess.run([*line, *off], cwd=folder, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "main").read_text()), json.loads((folder / "worker").read_text())


def test_a_gpu_process_has_few_threads(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    found, worker = started(tmp_path, inputs)
    names = {"OMP_NUM_THREADS": "8", "TORCHINDUCTOR_COMPILE_THREADS": "8", "RAYON_NUM_THREADS": "32"}
    assert found == {"compute": 8, "team": 8, "compile": 8, **names}
    assert worker == [1, 1]


def test_where_cores_compute_all_of_them_do(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    found, worker = started(tmp_path, inputs, "trainer.accelerator=cpu")
    assert (found["compute"], found["team"], found["compile"]) == (64, 64, 8) and worker == [1, 1]


def test_the_users_settings_win(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    given = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "5", "RAYON_NUM_THREADS": "6"}
    assert started(tmp_path, inputs, **given)[0] == {"compute": 1, "team": 1, "compile": 5, **given}


def test_processes_of_one_run_share_the_cores(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    found, _ = started(tmp_path, inputs, LOCAL_WORLD_SIZE="32")
    assert (found["compute"], found["compile"]) == (2, 2)
