"""Cores are counted as the system grants them, and divided among the processes of a run."""

import math
from pathlib import Path

import pytest

from beacon_lit.cores import Threads, local_processes, quota, threads, usable_cores


@pytest.mark.parametrize(
    ("cores", "processes", "on_gpu", "expected"),
    [
        (64, 1, True, Threads(8, 8, 32)),
        (64, 8, True, Threads(8, 8, 32)),
        (32, 8, True, Threads(4, 4, 32)),
        (2, 8, True, Threads(1, 1, 2)),
        (64, 1, False, Threads(64, 8, 32)),
        (64, 4, False, Threads(16, 8, 32)),
        (1, 1, False, Threads(1, 1, 1)),
    ],
)
def test_cores_are_divided(cores: int, processes: int, on_gpu: bool, expected: Threads) -> None:
    assert threads(cores, processes, on_gpu) == expected


@pytest.mark.parametrize(
    ("environ", "devices", "expected"),
    [
        ({}, 1, 1),
        ({}, 8, 8),
        ({}, 0, 1),
        ({"LOCAL_WORLD_SIZE": "4"}, 8, 4),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_CPUS_PER_TASK": "6"}, 8, 1),  # each task has its own cores
        ({"SLURM_STEP_NUM_TASKS": "8"}, 8, 8),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_CPUS_PER_TASK": "64"}, 8, 8),  # Lightning starts the processes
    ],
)
def test_processes_that_share_cores_are_counted(environ: dict[str, str], devices: int, expected: int) -> None:
    assert local_processes(environ, devices) == expected


def written(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_quota_is_the_least_of_a_group_and_its_parents(tmp_path: Path) -> None:
    own = "0::/job/step\n"
    assert quota(own, tmp_path) == math.inf
    written(tmp_path / "job" / "step" / "cpu.max", "max 100000\n")
    assert quota(own, tmp_path) == math.inf
    written(tmp_path / "job" / "cpu.max", "600000 100000\n")
    assert quota(own, tmp_path) == 6
    written(tmp_path / "job" / "step" / "cpu.max", "250000 100000\n")
    assert quota(own, tmp_path) == 2.5
    written(tmp_path / "other" / "cpu.max", "100000 100000\n")
    assert quota(own, tmp_path) == 2.5


def test_the_quota_of_control_groups_of_version_1(tmp_path: Path) -> None:
    own = "4:memory:/job\n3:cpu,cpuacct:/job\n0::/\n"
    written(tmp_path / "cpu,cpuacct" / "cpu.cfs_quota_us", "-1\n")
    written(tmp_path / "cpu,cpuacct" / "cpu.cfs_period_us", "100000\n")
    assert quota(own, tmp_path) == math.inf
    written(tmp_path / "cpu,cpuacct" / "cpu.cfs_quota_us", "300000\n")  # of the container, mounted at the root
    assert quota(own, tmp_path) == 3


def test_the_cpu_affinity_limits_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {3}, raising=False)
    assert usable_cores() == 1
