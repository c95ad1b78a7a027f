"""What a server refuses, and what is left of requests that are refused, given up or killed."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from beacon_lit.chat import saved
from tests.serving.servers import KEY, Running, idle, serving, text, until

LONG: dict[str, Any] = {"model": "tiny", "max_tokens": 2000, "messages": [{"role": "user", "content": "Who?"}]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One request at a time, and two that wait."""
    sizes = ["batch_size=1", "queue=2", "upload_mib=0.05"]
    with serving(tmp_path_factory.mktemp("kept"), *sizes) as running:
        yield running


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of a response, which is in OpenAI's schema."""
    assert response.status_code == status, response.text
    (name, error), *rest = response.json().items()
    assert name == "error" and not rest and set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("key", [None, "Bearer wrong", f"Basic {KEY}", "Bearer", f"Bearer {KEY}x", "Bearer schlüssel"])
@pytest.mark.parametrize("path", ["models", "files", "chat/completions"])
def test_a_wrong_key(server: Running, key: str | None, path: str) -> None:
    headers = {} if key is None else {"Authorization": key.encode("latin-1")}
    method = "POST" if "/" in path else "GET"
    response = httpx.request(method, f"{server.url}/v1/{path}", headers=headers, json=LONG if "/" in path else None)
    assert error_of(response, 401)["code"] == "invalid_api_key"


def test_the_client_raises_its_own_errors(server: Running) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError) as error:
        server.openai.chat.completions.create(**{**LONG, "model": "other"})
    assert error.value.code == "model_not_found" and error.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        server.openai.chat.completions.create(**LONG, temperature=3)


@pytest.mark.parametrize(
    ("change", "param", "said"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "judge", "content": "?"}]}, "messages.0.role", "user"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages", "file"),
        ({"n": 2}, "n", "n is not supported"),
        ({"tools": [{"type": "function"}]}, "tools", "tools is not supported"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 10**9}, "max_tokens", "less than or equal to"),
        ({"max_tokens": 10**6}, "max_tokens", "max_tokens=1000000 is not allowed here"),
        (
            {"max_completion_tokens": 10**6},
            "max_completion_tokens",
            "max_completion_tokens=1000000 is not allowed here",
        ),
        ({"stop": 5}, "stop", "string"),
    ],
)
def test_wrong_requests(server: Running, change: dict[str, Any], param: str, said: str) -> None:
    error = error_of(server.http.post("/chat/completions", json={**LONG, **change}), 400)
    assert said in error["message"] and error["param"].startswith(param)
    assert error["type"] == "invalid_request_error"


def test_other_wrong_requests(server: Running) -> None:
    error_of(server.http.post("/chat/completions", content=b"{"), 400)
    error_of(server.http.get("/nothing"), 404)
    error_of(server.http.delete("/models"), 405)
    error_of(server.http.post("/files", data={"purpose": "user_data"}), 400)
    for content, said in ((b"\xff\xfe\x00", "not UTF-8"), (b"  \n", "empty")):
        assert said in error_of(server.http.post("/files", files={"file": ("a.txt", content)}), 400)["message"]
    for prompt in ([5, 10**6], [-1], ""):
        error_of(server.http.post("/completions", json={"model": "tiny", "prompt": prompt, "max_tokens": 1}), 400)
    # sent when the answer would begin, so not as part of a stream
    long = {**LONG, "stream": True, "messages": [{"role": "user", "content": text(3500)}]}
    error = error_of(server.http.post("/chat/completions", json=long), 400)
    assert error["code"] == "context_length_exceeded" and error["param"] == "messages"
    plain = {"model": "tiny", "prompt": text(3500), "max_tokens": 1}
    assert error_of(server.http.post("/completions", json=plain), 400)["param"] == "prompt"


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("completions", {"prompt": "\ud800"}, "prompt"),
        ("chat/completions", {"messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}]},
            "messages.0.content",
        ),
    ],
)
def test_half_a_character(server: Running, path: str, change: dict[str, Any], param: str) -> None:
    """JSON can have one half of a surrogate pair, which no tokenizer takes."""
    body = json.dumps({"model": "tiny", "max_tokens": 1, **change})
    response = server.http.post(path, content=body, headers={"Content-Type": "application/json"})
    error = error_of(response, 400)
    assert "surrogate" in error["message"] and error["param"].startswith(param)


def test_documents_that_are_too_long(server: Running) -> None:
    too_many_tokens = server.http.post("/files", files={"file": ("a.txt", text(3500).encode())})
    assert error_of(too_many_tokens, 413)["code"] == "file_too_large"
    too_many_bytes = {"file": ("a.txt", b"a" * 60_000)}
    error_of(server.http.post("/files", files=too_many_bytes), 413)
    request = server.http.build_request("POST", "/files", files=too_many_bytes)
    head = {name: value for name, value in request.headers.items() if name != "content-length"}
    unknown_length = server.http.post("/files", content=iter([request.read()]), headers=head)
    error_of(unknown_length, 413)
    assert server.openai.files.list().data == [] and idle(server)


def test_a_full_queue_and_clients_that_go_away(server: Running) -> None:
    """One answer is written, two wait, a fourth is refused; what clients give up makes room for others."""
    clients = [httpx.Client(base_url=f"{server.url}/v1", headers=server.http.headers, timeout=60) for _ in range(3)]
    cancelled = server.metric("cancelled_total")
    with ThreadPoolExecutor(3) as pool:

        def stream(client: httpx.Client) -> None:
            with client.stream("POST", "/chat/completions", json={**LONG, "stream": True}) as response:
                for number, _ in enumerate(response.iter_lines()):
                    if number == 6:
                        return  # and close the connection

        first = server.http.stream("POST", "/chat/completions", json={**LONG, "stream": True})
        lines = first.__enter__().iter_lines()
        next(lines)
        waiting = [pool.submit(client.post, "/chat/completions", json=LONG, timeout=1.5) for client in clients[:2]]
        until(lambda: server.metric("queued_requests") == 2)
        refused = server.http.post("/chat/completions", json=LONG)
        assert error_of(refused, 429)["code"] == "queue_full" and refused.headers["retry-after"]
        with pytest.raises(openai.RateLimitError):
            server.openai.chat.completions.create(**LONG)
        assert server.metric("rows") == 1
        for one in waiting:  # they give up in the queue, while the first is still written
            with pytest.raises(httpx.ReadTimeout):
                one.result()
        until(lambda: server.metric("queued_requests") == 0)
        assert server.metric("rows") == 1
        assert next(line for line in lines if line)
        first.__exit__(None, None, None)  # goes away in the middle of its answer
        until(lambda: idle(server), 5)
        pool.submit(stream, clients[2]).result()
        until(lambda: idle(server), 5)
    with pytest.raises(httpx.ReadTimeout):  # goes away while a whole answer is written
        server.http.post("/chat/completions", json=LONG, timeout=0.5)
    until(lambda: idle(server), 5)
    assert server.metric("cancelled_total") == cancelled + 5
    assert server.openai.chat.completions.create(**{**LONG, "max_tokens": 2}).usage.completion_tokens == 2


def test_an_upload_that_is_given_up_goes_on_later(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, document = server.service.lm, {"file": ("a.txt", text(500, 3).encode())}
    read, reached, go = type(lm).compress_iter, threading.Event(), threading.Event()

    def slow(*args: Any, **options: Any) -> Iterator[Any]:
        for chunk in read(*args, **options):
            yield chunk
            reached.set()
            go.wait(20)

    monkeypatch.setattr(type(lm), "compress_iter", slow)
    cancelled = server.metric("cancelled_total")
    with pytest.raises(httpx.ReadTimeout):
        server.http.post("/files", files=document, timeout=1)
    assert reached.is_set()
    until(lambda: server.metric("cancelled_total") == cancelled + 1)
    go.set()
    until(lambda: idle(server))
    assert not list(server.service.documents.folder.iterdir()) and not server.service._underway
    before = server.metric("reused_tokens_total")
    assert server.http.post("/files", files=document).json()["status"] == "processed"
    assert server.metric("reused_tokens_total") - before >= 512  # the chunk of eight windows that had been read


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Writing a document takes until the second event; the first says that it has begun."""
    save, begun, go = saved.save, threading.Event(), threading.Event()

    def slow(*args: Any) -> None:
        begun.set()
        go.wait(20)
        save(*args)

    monkeypatch.setattr(saved, "save", slow)
    yield begun, go
    go.set()


def test_answers_go_on_while_a_document_is_written(tmp_path: Path, slow_disk: tuple) -> None:
    begun, go = slow_disk
    with serving(tmp_path) as server, ThreadPoolExecutor(1) as pool:
        upload = pool.submit(server.http.post, "/files", files={"file": ("a.txt", text(100).encode())})
        assert begun.wait(20)
        assert server.openai.chat.completions.create(**{**LONG, "max_tokens": 5}).usage.completion_tokens == 5
        assert not upload.done() and not server.http.get("/files").json()["data"]
        go.set()
        assert upload.result().json()["id"] == server.http.get("/files").json()["data"][0]["id"]


def test_a_document_that_is_given_up_while_it_is_written_leaves_nothing(tmp_path: Path, slow_disk: tuple) -> None:
    begun, go = slow_disk
    with serving(tmp_path) as server:
        with pytest.raises(httpx.ReadTimeout):
            server.http.post("/files", files={"file": ("a.txt", text(100).encode())}, timeout=1)
        assert begun.is_set()
        until(lambda: idle(server))
        go.set()
        server.service.files.submit(lambda: None).result(20)  # after what was under way
        assert not list(server.service.documents.folder.iterdir()) and not server.http.get("/files").json()["data"]


def test_an_error_inside_is_told_and_the_server_goes_on(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("secret details")

    with monkeypatch.context() as patch:
        patch.setattr("beacon_lit.arch.RowDecoding.step", broken)
        error = error_of(server.http.post("/chat/completions", json=LONG), 500)
        assert error["message"] == "internal error" and error["type"] == "server_error"
        lines = server.http.post("/chat/completions", json={**LONG, "stream": True}).text.splitlines()
        assert json.loads(lines[-2].removeprefix("data: "))["error"]["message"] == "internal error"
    assert server.openai.chat.completions.create(**{**LONG, "max_tokens": 5}).usage.completion_tokens == 5
    assert idle(server)


def test_the_least_recently_used_documents_make_room(tmp_path: Path) -> None:
    with serving(tmp_path, "disk_mib=0.5") as server:

        def upload(seed: int) -> str:
            content = text(150, seed)[:600].encode()  # equally long, so that one makes room for one
            return server.openai.files.create(file=(f"{seed}.txt", content), purpose="user_data").id

        def asked(id: str) -> Any:
            parts: list[Any] = [{"type": "file", "file": {"file_id": id}}, {"type": "text", "text": "Who?"}]
            messages: list[Any] = [{"role": "user", "content": parts}]
            return server.openai.chat.completions.create(model="tiny", max_tokens=2, messages=messages)

        first, second = upload(1), upload(2)
        others = []
        while server.metric("evicted_documents_total") == 0:
            asked(first)  # so that the second is the one that was used least recently
            others.append(upload(3 + len(others)))
        left = {file.id for file in server.openai.files.list()}
        assert left == {first, *others} and asked(first)
        with pytest.raises(openai.NotFoundError, match="make room"):
            asked(second)
        folder = server.service.documents.folder
        assert {path.name for path in folder.iterdir()} == left
        used = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        assert used == server.metric("document_bytes") <= 0.5 * 2**20
        with pytest.raises(openai.APIStatusError) as error:
            server.openai.files.create(file=("long.txt", text(2500).encode()), purpose="user_data")
        assert error.value.status_code == 413 and {path.name for path in folder.iterdir()} == left


def test_memory_stays_within_its_limit(tmp_path: Path) -> None:
    with serving(tmp_path, "memory_mib=0.2") as server:
        for seed in range(6):
            server.openai.completions.create(model="tiny", prompt=text(100, seed), max_tokens=2)
            assert server.metric("prefix_bytes") <= 0.2 * 2**20
        assert 0 < server.metric("prefixes") < 6


def test_a_document_that_is_deleted_while_its_cache_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, "memory_mib=0") as server:
        id = server.openai.files.create(file=("a.txt", text(100).encode()), purpose="user_data").id
        parse = saved._parse

        def deleted(file: Path) -> Any:
            server.service.documents.delete(id)
            return parse(file)

        monkeypatch.setattr(saved, "_parse", deleted)
        parts = [{"type": "file", "file": {"file_id": id}}, {"type": "text", "text": "Who?"}]
        body = {"model": "tiny", "messages": [{"role": "user", "content": parts}]}
        assert error_of(server.http.post("/chat/completions", json=body), 404)["code"] == "file_not_found"
