"""What the users of a server do, chosen at random: each client does one thing after the other until time is up."""

import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from threading import Lock
from typing import Any

import httpx

from benchmarks.asking import Asking, Missing
from benchmarks.server import MIB, Server
from benchmarks.tally import Tally
from benchmarks.texts import QUESTIONS, SIZES, beginning, document, words

_CHAT, _PLAIN = "/v1/chat/completions", "/v1/completions"
_GONE = (404, "file_not_found")
_BEGINNINGS = 4
_DOCUMENTS = 3 * SIZES


class Shelf:
    """The ids of uploaded documents by number. Any thread may use it.

    Attributes:
        lost: ids that no client has deleted, and that the server did not have any more.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._ids: dict[int, str] = {}
        self._deleted: set[str] = set()
        self.lost: set[str] = set()

    def put(self, number: int, id: str) -> None:
        """Note a document."""
        with self._lock:
            self._ids[number] = id

    def get(self, number: int) -> str | None:
        """Return a document's id, if there is one."""
        with self._lock:
            return self._ids.get(number)

    def take(self, number: int) -> str | None:
        """Return a document's id, if there is one, for a client that deletes the document."""
        with self._lock:
            id = self._ids.pop(number, None)
            if id is not None:
                self._deleted.add(id)
            return id

    def missed(self, number: int, id: str) -> None:
        """Note that the server does not have a document."""
        with self._lock:
            if self._ids.get(number) == id:
                del self._ids[number]
            if id not in self._deleted:
                self.lost.add(id)


class Client:
    """One user.

    Args:
        server: the server.
        tally: counts what comes back.
        shelf: documents of all users.
        longest: words of the longest document.
        beyond: words of a document that is too long.
        upload_mib: most MiB of a request.
        seed: of everything that is chosen.
        crowded: whether the queue may be full.
    """

    def __init__(
        self, server: Server, tally: Tally, shelf: Shelf, longest: int, beyond: int, upload_mib: float, seed: int,
        crowded: bool,
    ) -> None:  # fmt: skip
        self.server, self.tally, self.shelf, self.random = server, tally, shelf, Random(seed)
        self.longest, self.beyond, self.upload_mib = longest, beyond, upload_mib
        self.asking = Asking(server.client(), server.name, tally, crowded)
        self.actions: dict[Callable[[], None], float] = {
            self.ask: 6, self.converse: 2, self.complete: 4, self.upload: 1, self.upload_twice: 0.5, self.delete: 1,
            self.leave: 2, self.leave_upload: 0.5, self.look: 1, self.wrong: 1, self.too_much: 0.3,
        }  # fmt: skip

    def run(self, end: float, pause: float) -> None:
        """Do things until `end` (of `time.monotonic`), and rest `pause` seconds on average after each."""
        while time.monotonic() < end:
            action = self.random.choices([*self.actions], [*self.actions.values()])[0]
            try:
                action()
            except Exception:
                self.tally.wrong(f"{action.__name__}: {traceback.format_exc()}")
            time.sleep(self.random.uniform(0, 2 * pause))
        self.asking.http.close()

    def ask(self) -> None:
        """Ask about a document, which is uploaded first if the server does not have it."""
        number = self.random.randrange(_DOCUMENTS)
        self._ask(number, [self.random.choice(QUESTIONS)])

    def converse(self) -> None:
        """Ask about a document, and go on for two turns."""
        number = self.random.randrange(_DOCUMENTS)
        first = self.random.randrange(len(QUESTIONS))
        asked: list[str] = []
        for turn in range(3):
            asked.append(QUESTIONS[(first + turn) % len(QUESTIONS)])
            answer = self._ask(number, asked)
            if answer is None:
                return
            asked.append(answer)

    def complete(self) -> None:
        """Continue a plain text; many begin alike."""
        start = beginning(self.random.randrange(_BEGINNINGS), self.longest)
        prompt = f"{start} {words(12, 3000 + self.random.randrange(10))}"
        body = {"prompt": prompt, "max_tokens": 16, "temperature": 0}
        if self.random.random() < 0.2:  # drawn, so that the next answer is another one
            self._answer(_PLAIN, {**body, "temperature": 1.0, "top_p": 0.9, "stop": ["\n"]})
            return
        answer = self._answer(_PLAIN, body)
        if answer is not None:
            self.tally.same(prompt, answer)

    def upload(self) -> None:
        """Upload a document, whether or not the server has it."""
        self._upload(self.random.randrange(_DOCUMENTS))

    def upload_twice(self) -> None:
        """Upload two documents that begin alike at once."""
        first = self.random.randrange(0, _DOCUMENTS - 1)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._upload, (first, first + 1)))

    def delete(self) -> None:
        """Delete a document."""
        number = self.random.randrange(_DOCUMENTS)
        id = self.shelf.take(number)
        if id is not None:
            self.asking.send("DELETE", f"/v1/files/{id}", (200, None), _GONE)

    def leave(self) -> None:
        """Go away while an answer is streamed."""
        body = {"messages": [{"role": "user", "content": words(20, self.random.randrange(100))}], "max_tokens": 200}
        self.asking.stream(_CHAT, {**body, "temperature": 0}, pieces=self.random.randrange(1, 6))

    def leave_upload(self) -> None:
        """Go away while a document is compressed, or while the upload waits."""
        file = {"file": ("left.txt", document(self.random.randrange(_DOCUMENTS), self.longest).encode())}
        try:
            self.asking.send("POST", "/v1/files", (200, None), files=file, timeout=self.random.uniform(0.01, 0.3))
        except httpx.TimeoutException:
            self.tally.request("POST /v1/files", "left")

    def look(self) -> None:
        """List models and documents, and read a document's text."""
        number = self.random.randrange(_DOCUMENTS)
        self.asking.send("GET", "/v1/models", (200, None))
        self.asking.send("GET", "/v1/files", (200, None))
        id = self.shelf.get(number)
        if id is None:
            return
        found = self.asking.send("GET", f"/v1/files/{id}/content", (200, None), _GONE)
        if found is not None and found.status_code == 404:
            self.shelf.missed(number, id)
        elif found is not None and found.text != document(number, self.longest):
            self.tally.wrong(f"another text of document {number}")

    def wrong(self) -> None:
        """Send requests with mistakes."""
        message: dict[str, Any] = {"model": self.server.name, "messages": [{"role": "user", "content": "Who?"}]}
        with self.server.client("a wrong key") as http:
            Asking(http, "", self.tally).send("GET", "/v1/files", (401, "invalid_api_key"))
        mistakes: list[tuple[dict[str, Any], tuple[int, str | None]]] = [
            ({**message, "model": "another"}, (404, "model_not_found")),
            ({**message, "temperature": 3}, (400, None)),
            ({**message, "max_tokens": 2**20}, (400, "context_length_exceeded")),
            ({**message, "messages": [{"role": "user", "content": _parts("file-unknown", "Who?")}]}, _GONE),
        ]
        for body, expected in mistakes:
            self.asking.send("POST", _CHAT, expected, json=body)

    def too_much(self) -> None:
        """Upload a document of too many tokens, and one of too many bytes."""
        self.asking.upload("long.txt", words(self.beyond, 1), (413, "file_too_large"))
        many = "a" * (int(self.upload_mib * MIB) + 1)
        self.asking.upload("large.txt", many, (413, "request_too_large"))

    def _ask(self, number: int, asked: list[str]) -> str | None:
        """Ask about a document after earlier questions and answers; None if there is no answer."""
        id = self.shelf.get(number) or self._upload(number)
        if id is None:
            return None
        messages: list[dict[str, Any]] = [{"role": "user", "content": _parts(id, asked[0])}]
        for place, text in enumerate(asked[1:]):
            messages.append({"role": ("assistant", "user")[place % 2], "content": text})
        body = {"messages": messages, "max_tokens": 8 * (1 + number % 4), "temperature": 0}
        try:
            answer = self._answer(_CHAT, body, _GONE)
        except Missing:
            self.shelf.missed(number, id)
            return None
        if answer is None:
            return None
        self.tally.same(f"document {number}: {asked}", answer)
        return answer

    def _answer(self, path: str, body: dict[str, Any], *expected: tuple[int, str | None]) -> str | None:
        """Ask for an answer, half of the time as a stream."""
        way = self.asking.stream if self.random.random() < 0.5 else self.asking.answer
        return way(path, body, *expected)

    def _upload(self, number: int) -> str | None:
        found = self.asking.upload(f"{number}.txt", document(number, self.longest))
        if found is None:
            return None
        self.shelf.put(number, found["id"])
        return str(found["id"])


def _parts(id: str, question: str) -> list[dict[str, Any]]:
    return [{"type": "file", "file": {"file_id": id}}, {"type": "text", "text": question}]
