"""A real uvicorn on a free port, with a tiny model, in a thread of this process."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import uvicorn

from beacon_lit.cli import resolvers
from beacon_lit.cli.serve import application
from beacon_lit.serving.service import Service
from tests.configs import WORDS, composed

resolvers.register()
KEY = "a key for tests"
TINY = ["model=tiny", "beacon.window=64", "beacon.overlap=8", "ratio=4", "graceful_seconds=1"]


@dataclass(frozen=True)
class Running:
    """A server: its address, its application's service, and clients."""

    url: str
    service: Service
    openai: openai.OpenAI
    http: httpx.Client

    def metric(self, name: str) -> float:
        """One metric, all labels together."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split()[0] == f"beacon_{name}")


@contextmanager
def serving(folder: Path, *overrides: str) -> Iterator[Running]:
    """Start a server, and stop it as a signal would."""
    app = application(composed("serve", *TINY, f"folder={folder}", *overrides), KEY)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    socket = server.config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    url = f"http://127.0.0.1:{socket.getsockname()[1]}"
    try:
        until(lambda: server.started)
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=f"{url}/v1", headers=headers, timeout=60) as http:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
            yield Running(url, app.state.service, client, http)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def text(words: int, seed: int = 1) -> str:
    """Text of about five characters a word."""
    return " ".join(WORDS[(seed * 7 + i * i + i * seed) % len(WORDS)] for i in range(words))


def idle(server: Running) -> bool:
    """Whether no job waits, reads or writes."""
    return not any(server.metric(name) for name in ("queued_requests", "reading_requests", "rows"))
