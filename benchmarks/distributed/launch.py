"""Start processes on one machine, or on one machine that acts as several."""

import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

Done = subprocess.CompletedProcess
QUICK_END = {"TORCH_NCCL_DUMP_ON_TIMEOUT": "0", "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "1000"}


def torchrun(
    arguments: Sequence[str],
    nodes: int,
    per_node: int,
    folder: Path,
    environment: dict[str, str],
    timeout: float,
    python: str = sys.executable,
) -> list[Done]:
    """Run `torchrun --nproc-per-node=PER_NODE ARGUMENTS` in a folder; return what each node printed.

    With several nodes, as many torchruns start on this machine and find each other as on separate machines. They share
    the machine's first GPU: NCCL accepts two ranks on one GPU if their hosts differ by name (`NCCL_HOSTID`), and then
    communicates through sockets.
    """
    meet = ["--standalone"]
    environments = [environment]
    if nodes > 1:
        meet = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
        shared = {**environment, "NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo", **QUICK_END}
        environments = [{**shared, "NCCL_HOSTID": f"node-{node}"} for node in range(nodes)]
    command = [python, "-m", "torch.distributed.run", *meet, f"--nproc-per-node={per_node}", *arguments]
    return side_by_side(command, environments, folder, timeout)


def side_by_side(
    command: Sequence[str], environments: Sequence[dict[str, str]], folder: Path, timeout: float
) -> list[Done]:
    """Run a command in several environments at the same time, and wait for all.

    Raises:
        subprocess.TimeoutExpired: a process has not ended after `timeout` seconds.
    """

    def run(environment: dict[str, str]) -> Done:
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    with ThreadPoolExecutor(len(environments)) as threads:
        return list(threads.map(run, environments))


def free_port() -> int:
    """Return an unused port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
