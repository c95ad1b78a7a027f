"""A server in a process of its own: start it, watch what it takes, and stop it."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
MIB = 2**20
STOPPED = -signal.SIGTERM  # status of a process that has stopped gracefully: uvicorn raises the signal again


class Server:
    """A running server.

    Args:
        settings: of conf/serve.yaml.
        out: receives the server's log, and the folder that it keeps.

    Raises:
        RuntimeError: the server did not start.
    """

    def __init__(self, settings: Mapping[str, str], out: Path) -> None:
        self.kept, self.log = out / "kept", out / "server.log"
        self.key = secrets.token_urlsafe(24)
        given = {"port": "0", "folder": str(self.kept), "hydra.run.dir": str(out / "run"), **settings}
        command = [sys.executable, str(ROOT / "serve.py"), *(f"{name}={value}" for name, value in given.items())]
        environment = {**os.environ, "BEACON_API_KEY": self.key, "PYTHONUNBUFFERED": "1"}
        started = time.perf_counter()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        assert self.process.stdout is not None
        found = re.fullmatch(r"serving (.+) at (http://\S+)/v1\n", self.process.stdout.readline())
        if found is None:
            self.process.kill()
            raise RuntimeError(f"the server did not start; see {self.log}")
        self.name, self.url = found.groups()
        while not self._answers():
            time.sleep(0.05)
        self.start_seconds = time.perf_counter() - started

    def client(self, key: str | None = None) -> httpx.Client:
        """Return a client, which sends the server's key unless another is given."""
        headers = {"Authorization": f"Bearer {self.key if key is None else key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=300)

    def metrics(self) -> dict[str, float]:
        """Return counters and gauges by name, all labels together."""
        found: dict[str, float] = {}
        for line in httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines():
            name, _, value = line.rpartition(" ")
            if not name.startswith("#") and "_bucket" not in name:
                name = name.partition("{")[0].removeprefix("beacon_")
                found[name] = found.get(name, 0) + float(value)
        return found

    def idle(self, seconds: float) -> bool:
        """Wait until no request waits or is worked on; return whether that happened in time."""
        end = time.monotonic() + seconds
        while any(self.metrics()[name] for name in ("queued_requests", "reading_requests", "rows")):
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def sample(self) -> dict[str, float]:
        """Return what the server takes now: memory and folder in MiB, threads, open files, and its own metrics."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        rss, threads = (int(re.search(rf"^{name}:\s+(\d+)", status, re.M)[1]) for name in ("VmRSS", "Threads"))  # type: ignore[index]
        sample = {"rss_mib": rss / 1024, "threads": threads, "files": len(os.listdir(f"/proc/{self.process.pid}/fd"))}
        metrics = self.metrics()
        gauges = ("documents", "prefixes", "queued_requests", "reading_requests", "rows", "evicted_documents_total")
        sample |= {name: metrics[name] for name in gauges}
        sample |= {f"{name}_mib": metrics[f"{name}_bytes"] / MIB for name in ("document", "prefix")}
        device = device_mib()
        return sample | {"folder_mib": folder_mib(self.kept)} | ({} if device is None else {"device_mib": device})

    def stop(self, seconds: float = 300) -> tuple[int, float]:
        """Terminate the server; return its exit status, and how long it took."""
        started = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds), time.perf_counter() - started

    def kill(self) -> None:
        """End the process if it is still there."""
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=60).status_code == 200
        except httpx.TransportError:
            return False


def device_mib() -> float | None:
    """Return the memory of the first GPU that is in use, by all processes, in MiB; None without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.split()
    return float(lines[0]) if lines else None


def folder_mib(folder: Path) -> float:
    """Return the size of all files in a folder, in MiB; files may disappear meanwhile."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(path, name))
            except FileNotFoundError:
                continue
    return total / MIB
