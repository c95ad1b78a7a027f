"""Count the cores that this process may use, and divide them into threads and processes."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

GPU_THREADS = 8  # a process that computes on a GPU launches kernels; more threads only take cores from other runs
COMPILERS = 8  # processes of torch.compile, which live as long as the run
TOKENIZERS = 32  # processes that tokenise, each with memory of its own

_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Threads:
    """How many threads and helper processes one process starts.

    Attributes:
        compute: threads of PyTorch's operations on the CPU.
        compile: processes of `torch.compile`.
        tokenize: processes that tokenise data, and threads of the tokenizers library.
    """

    compute: int
    compile: int
    tokenize: int


def threads(cores: int, processes: int = 1, on_gpu: bool = False) -> Threads:
    """Divide the cores of a machine among the processes of a run.

    Runs cannot see each other: for any number of runs side by side, the caps on a GPU process must do.

    Args:
        cores: the cores that this process may use.
        processes: processes of the run that share these cores.
        on_gpu: whether a GPU computes. Otherwise the cores do, and all of them are used.
    """
    share = max(1, cores // processes)
    compute = min(share, GPU_THREADS) if on_gpu else share
    return Threads(compute, min(share, COMPILERS), min(cores, TOKENIZERS))  # one process of a run tokenises at a time


def usable_cores() -> int:
    """Return the number of cores that this process may use: its CPU affinity, and the quota of its control groups."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = Path("/proc/self/cgroup")
    return max(1, int(min(allowed, quota(own.read_text(), _CGROUPS) if own.exists() else math.inf)))


def quota(own: str, root: Path) -> float:
    """Return how many cores' time control groups grant; infinity where nothing limits the time.

    Args:
        own: the groups of a process, as in /proc/self/cgroup.
        root: where the groups are mounted. A container may mount its own group there, so that parents of a missing
            folder count, too.
    """
    granted = math.inf
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            base = root / controllers
            group = base / path.lstrip("/")
            folders = [folder for folder in (group, *group.parents) if folder.is_relative_to(base)]
            granted = min([granted, *(limit for folder in folders for limit in _limits(folder))])
    return granted


def _limits(folder: Path) -> Iterator[float]:
    """Yield the limit of a control group of version 2 or 1, if there is one."""
    if (file := folder / "cpu.max").is_file():
        time, period = file.read_text().split()
    elif (file := folder / "cpu.cfs_quota_us").is_file():
        time, period = file.read_text().strip(), (folder / "cpu.cfs_period_us").read_text()
    else:
        return
    if time not in ("max", "-1"):
        yield int(time) / int(period)


def local_processes(environ: Mapping[str, str], devices: int) -> int:
    """Return how many processes of a run share the cores of this process.

    Args:
        environ: the environment; torchrun sets LOCAL_WORLD_SIZE. Where SLURM gives every task cores of its own, the
            tasks share none.
        devices: devices of a node, for processes that Lightning starts.
    """
    if "LOCAL_WORLD_SIZE" in environ:
        return int(environ["LOCAL_WORLD_SIZE"])
    if int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_CPUS_PER_TASK" in environ:
        return 1
    return max(1, devices)
