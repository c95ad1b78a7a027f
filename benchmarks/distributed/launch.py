"""Processes of several machines, or of one that passes for several."""

import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

Done = subprocess.CompletedProcess
QUICK_END = {"TORCH_NCCL_DUMP_ON_TIMEOUT": "0", "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "1000"}


def torchrun(
    arguments: Sequence[str], nodes: int, per_node: int, folder: Path, environment: dict[str, str], timeout: float
) -> list[Done]:
    """`torchrun --nproc-per-node=PER_NODE ARGUMENTS` in a folder, and what each node printed.

    More than one node are as many torchruns on this machine that find each other as they would on machines of their
    own. They share its first GPU: NCCL takes two ranks on one GPU if it is told that their hosts differ
    (`NCCL_HOSTID`), and then sends everything through sockets.
    """
    meet = ["--standalone"]
    environments = [environment]
    if nodes > 1:
        meet = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
        shared = {**environment, "NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo", **QUICK_END}
        environments = [{**shared, "NCCL_HOSTID": f"node-{node}"} for node in range(nodes)]
    command = [sys.executable, "-m", "torch.distributed.run", *meet, f"--nproc-per-node={per_node}", *arguments]
    return side_by_side(command, environments, folder, timeout)


def side_by_side(
    command: Sequence[str], environments: Sequence[dict[str, str]], folder: Path, timeout: float
) -> list[Done]:
    """Run a command in several environments at the same time, to the end of all.

    Raises:
        subprocess.TimeoutExpired: one is not done after `timeout` seconds.
    """

    def run(environment: dict[str, str]) -> Done:
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    with ThreadPoolExecutor(len(environments)) as threads:
        return list(threads.map(run, environments))


def free_port() -> int:
    """A port of this machine at which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
