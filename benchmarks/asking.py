"""Send requests to a server, and check and count every response."""

import json
import time
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.tally import Tally

_BUSY = (429, "queue_full")


class Missing(Exception):
    """The server does not have a document that a question is about."""


@dataclass(frozen=True)
class Asking:
    """One client.

    Attributes:
        http: sends the requests.
        model: the model's name.
        tally: counts what comes back.
        crowded: whether the queue may be full.
    """

    http: httpx.Client
    model: str
    tally: Tally
    crowded: bool = True

    def send(self, method: str, path: str, *expected: tuple[int, str | None], **options: Any) -> httpx.Response | None:
        """Send a request, and check that status and code are among those `expected`.

        Returns:
            the response; None if the queue was full, or the response unexpected.
        """
        response = self.http.request(method, path, **options)
        return response if self._checked(method, path, response, expected) else None

    def answer(self, path: str, body: dict[str, Any], *expected: tuple[int, str | None]) -> str | None:
        """Ask for a whole answer; None if there is none.

        Raises:
            Missing: status 404, if `expected`.
        """
        response = self.send("POST", path, (200, None), *expected, json={"model": self.model, **body})
        if response is None:
            return None
        if response.status_code != 200:
            raise Missing
        found = response.json()
        self.tally.used(found["usage"])
        choice = found["choices"][0]
        return choice["message"]["content"] if "message" in choice else choice["text"]

    def stream(self, path: str, body: dict[str, Any], *expected: tuple[int, str | None], pieces: int = 0) -> str | None:
        """Ask for a streamed answer, and measure its times; go away after `pieces` of it, unless 0.

        Returns:
            the answer; None if there is none, or the client has gone away.

        Raises:
            Missing: status 404, if `expected`.
        """
        asked = {"model": self.model, **body, "stream": True, "stream_options": {"include_usage": True}}
        start = time.perf_counter()
        with self.http.stream("POST", path, json=asked) as response:
            if response.status_code != 200:
                response.read()
            if not self._checked("POST", f"{path} stream", response, ((200, None), *expected)):
                return None
            if response.status_code != 200:
                raise Missing
            return self._streamed(path, response, start, pieces)

    def _streamed(self, path: str, response: httpx.Response, start: float, pieces: int) -> str | None:
        """Read the events of a streamed answer."""
        said, usage, times, ended = [], None, [], False
        for line in response.iter_lines():
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                ended = True
            elif data:
                event = json.loads(data)
                text = "".join(_text(choice) for choice in event.get("choices", []))
                usage = event.get("usage") or usage
                if "error" in event:
                    self.tally.wrong(f"{path} stream: {event}")
                if text:
                    said.append(text)
                    times.append(time.perf_counter())
                if len(said) == pieces > 0:
                    self.tally.request(f"POST {path} stream", "left")
                    return None
        if not ended or usage is None:
            self.tally.wrong(f"{path} stream: not ended; text {said!r}")
            return None
        self.tally.used(usage)
        if times:
            self.tally.time("first_token_ms", times[0] - start)
        if usage["completion_tokens"] > 1 and len(times) > 1:
            self.tally.time("token_ms", (times[-1] - times[0]) / (usage["completion_tokens"] - 1))
        return "".join(said)

    def upload(self, name: str, text: str, *expected: tuple[int, str | None]) -> dict[str, Any] | None:
        """Upload a document: its file object; None if there is none."""
        start = time.perf_counter()
        file = {"file": (name, text.encode())}
        response = self.send("POST", "/v1/files", *(expected or [(200, None)]), files=file)
        if response is None or response.status_code != 200:
            return None
        self.tally.time("upload_ms", time.perf_counter() - start)
        found = response.json()
        self.tally.read(found["beacon"]["tokens"])
        return found

    def _checked(self, method: str, path: str, response: httpx.Response, expected: Any) -> bool:
        """Count a response; return whether it is one of those expected, other than that of a full queue."""
        code = None if response.status_code == 200 else _code(response)
        found = (response.status_code, code)
        # An id has 29 characters.
        route = "/v1/files/ID" + path.removeprefix("/v1/files/")[29:] if path.startswith("/v1/files/") else path
        self.tally.request(f"{method} {route}", " ".join(str(part) for part in found if part is not None))
        if self.crowded and found == _BUSY and response.headers.get("retry-after"):
            return False
        if found not in expected:
            self.tally.wrong(f"{method} {path}: {found}, {response.text[:300]}; expected: {expected}")
            return False
        return True


def _text(choice: dict[str, Any]) -> str:
    return choice["delta"].get("content") or "" if "delta" in choice else choice["text"]


def _code(response: httpx.Response) -> str | None:
    try:
        return response.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return "not an error of OpenAI's schema"
