"""Stop a server in the middle of an answer, start it again, and compare what it knows."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.asking import Asking
from benchmarks.server import STOPPED, Server
from benchmarks.tally import Tally
from benchmarks.texts import document

_CHAT = "/v1/chat/completions"


class Restart:
    """The end of a server, and its second life.

    Args:
        server: the server; `run` stops it.
        settings: of conf/serve.yaml.
        out: the folder of the server.
        tally: counts what comes back.

    Attributes:
        times: seconds that stop and second start took.
    """

    def __init__(self, server: Server, settings: Mapping[str, str], out: Path, tally: Tally) -> None:
        self.server, self.settings, self.out, self.tally = server, settings, out, tally
        self.times: dict[str, float] = {}

    def run(self) -> None:
        """Stop the server while an answer is streamed, start it again, and ask the same once more."""
        id = self._upload()
        before = self._known(self.server, id)
        with ThreadPoolExecutor(1) as pool:
            streamed = pool.submit(self._stream, self.server)
            while not self.server.metrics()["rows"] and not streamed.done():
                time.sleep(0.01)
            status, self.times["stop_s"] = self.server.stop()
            if streamed.result() is None:
                self.tally.wrong("a graceful stop cut an answer off")
        if status not in (0, STOPPED):
            self.tally.wrong(f"the server stopped with status {status}")
        again = Server(self.settings, self.out)
        try:
            self.times["restart_s"] = again.start_seconds
            after = self._known(again, id)
            status, _ = again.stop()
        finally:
            again.kill()
        if before != after:
            self.tally.wrong(f"before the second start: {before}; after: {after}")
        if status not in (0, STOPPED):
            self.tally.wrong(f"the second server stopped with status {status}")

    def _known(self, server: Server, id: str | None) -> list[str]:
        """Ask about the last document, and return the ids of all."""
        with server.client() as http:
            asking = Asking(http, server.name, self.tally, crowded=False)
            parts = [{"type": "file", "file": {"file_id": id}}, {"type": "text", "text": "Who is it about?"}]
            self.tally.same("the last document", asking.answer(_CHAT, _greedy(parts, 24)) or "")
            listed = asking.send("GET", "/v1/files", (200, None))
            return [] if listed is None else sorted(file["id"] for file in listed.json()["data"])

    def _upload(self) -> str | None:
        with self.server.client() as http:
            found = Asking(http, self.server.name, self.tally, crowded=False).upload("last.txt", document(0, 400))
            return None if found is None else found["id"]

    def _stream(self, server: Server) -> str | None:
        with server.client() as http:
            asking = Asking(http, server.name, self.tally, crowded=False)
            return asking.stream(_CHAT, _greedy("Tell a long story.", 100))


def _greedy(content: Any, tokens: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": tokens, "temperature": 0}
