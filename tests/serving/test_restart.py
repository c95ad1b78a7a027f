"""A server that stops keeps what was read; the next one finds it."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from beacon_lit.cli.messages import short_errors
from beacon_lit.cli.serve import serve
from tests.configs import ROOT, composed
from tests.serving.servers import TINY, Running, serving, text, until
from tests.warm import warm_python

SYSTEM = text(120, 5)


def upload(client: openai.OpenAI, document: str) -> str:
    return client.files.create(file=("book.txt", document.encode()), purpose="user_data").id


def asked(client: openai.OpenAI, *files: str, system: str | None = None) -> tuple[str, int]:
    """The answer to a question about documents, and how many tokens were known."""
    parts: list[Any] = [{"type": "file", "file": {"file_id": file}} for file in files]
    messages: list[Any] = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": [*parts, {"type": "text", "text": "Who?"}]})
    answer: Any = client.chat.completions.create(model="tiny", max_tokens=20, messages=messages)
    return answer.choices[0].message.content, answer.usage.prompt_tokens_details.cached_tokens


def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as end, short_errors():
            serve(composed("serve", *TINY, f"port={port}", f"folder={tmp_path}"))
    assert str(end.value) == f"error: host=127.0.0.1 port={port} cannot be used; allowed: a free port, 0 for any"


def tokens_of(server: Running, id: str) -> int:
    return server.service.documents.get(id).tokens


def test_documents_and_prompts_are_found_again(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        id = upload(server.openai, text(200))
        (answer, _), (other, _) = asked(server.openai, id), asked(server.openai, system=SYSTEM)
    (tmp_path / "files" / ".partial-of-a-server-that-was-killed").mkdir()
    with serving(tmp_path) as server:
        assert [file.id for file in server.openai.files.list()] == [id]
        assert not (tmp_path / "prefixes").exists() and not list((tmp_path / "files").glob(".*"))
        again, known = asked(server.openai, id)
        assert again == answer and known >= tokens_of(server, id)
        again, known = asked(server.openai, system=SYSTEM)
        assert again == other and known > len(SYSTEM)


def test_a_document_alone_is_loaded_from_disk(tmp_path: Path) -> None:
    with serving(tmp_path, "memory_mib=0") as server:  # nothing is kept in memory
        id = upload(server.openai, text(200))
        answer = asked(server.openai, id)
        assert answer == asked(server.openai, id) and answer[1] >= tokens_of(server, id)
        assert server.metric("prefixes") == 0


def test_another_model_reads_a_document_again(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        id, empty = upload(server.openai, text(200)), upload(server.openai, "Short.")
        answer, _ = asked(server.openai, id)
    for change in ("seed=1", "ratio=8"):
        with serving(tmp_path, change) as server:
            other, _ = asked(server.openai, id)
            assert other != answer
            file = server.openai.files.retrieve(id)
        with serving(tmp_path, change, "memory_mib=0") as server:  # and has kept it
            assert asked(server.openai, id) == (other, server.openai.files.retrieve(id).model_extra["beacon"]["tokens"])  # type: ignore[index]
            assert server.openai.files.retrieve(id) == file and asked(server.openai, empty)[0]


def test_what_was_read_at_another_ratio_is_read_again(tmp_path: Path) -> None:
    with serving(tmp_path / "other", "ratio=8") as server:
        expected = asked(server.openai, upload(server.openai, text(200)))[0], asked(server.openai, system=SYSTEM)[0]
    with serving(tmp_path / "kept") as server:
        id = upload(server.openai, text(200))
        asked(server.openai, id), asked(server.openai, system=SYSTEM)
    with serving(tmp_path / "kept", "ratio=8") as server:
        assert (asked(server.openai, id)[0], asked(server.openai, system=SYSTEM)[0]) == expected


def test_answers_end_with_an_error_when_the_time_to_stop_is_over(tmp_path: Path) -> None:
    words = [*TINY, "port=0", "batch_size=1", "api_key=key", "graceful_seconds=0.5", f"folder={tmp_path / 'kept'}"]
    command = [warm_python(), str(ROOT / "serve.py"), *words, f"hydra.run.dir={tmp_path / 'run'}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        body: dict[str, Any] = {"model": "tiny", "prompt": "Who?", "max_tokens": 3000, "temperature": 0}
        with httpx.Client(headers={"Authorization": "Bearer key"}, timeout=60) as http, ThreadPoolExecutor(1) as pool:
            with http.stream("POST", f"{url}/completions", json={**body, "stream": True}) as stream:
                lines = (line for line in stream.iter_lines() if line)
                next(lines)
                waiting = pool.submit(http.post, f"{url}/completions", json=body)
                until(lambda: "beacon_queued_requests 1" in http.get(url.replace("/v1", "/metrics")).text)
                process.send_signal(signal.SIGTERM)
                *_, last = lines
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
            assert waiting.result().status_code == 503 and waiting.result().json()["error"]["code"] == "stopping"
        said = process.communicate(timeout=30)[1]
        assert "Traceback" not in said
        assert list((tmp_path / "kept" / "prefixes").iterdir())
    finally:
        process.kill()


def test_a_damaged_document_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving(tmp_path) as server:
        ids = [upload(server.openai, text(50, seed)) for seed in range(3)]
    (tmp_path / "files" / ids[0] / "file.json").write_text("")
    (tmp_path / "files" / ids[1] / "file.json").write_text('{"id": "other"}')
    with serving(tmp_path) as server:
        assert [file.id for file in server.openai.files.list()] == ids[2:]
        assert caplog.text.count("is damaged") == 2 and asked(server.openai, ids[2])[0]


def test_the_command_stops_gracefully(tmp_path: Path) -> None:
    """`serve.py` prints its address and key, finishes what runs when it is terminated, and leaves what it has read."""
    words = [*TINY, "graceful_seconds=60", "port=0", f"folder={tmp_path / 'kept'}", f"hydra.run.dir={tmp_path / 'run'}"]
    command = [warm_python(), str(ROOT / "serve.py"), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("BEACON_API_KEY", None)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        name, url = re.fullmatch(r"serving (\w+) at (http://127.0.0.1:\d+/v1)\n", process.stdout.readline()).groups()  # type: ignore[union-attr]
        assert process.stdout.readline() == f"page: {url.removesuffix('v1')}\n"
        key = re.fullmatch(r"API key: (\S{30,})\n", process.stdout.readline())
        assert name == "tiny" and key is not None
        client = openai.OpenAI(base_url=url, api_key=key[1], max_retries=0)
        id = upload(client, text(200))
        messages: Any = [{"role": "user", "content": "Who?"}]
        stream = client.chat.completions.create(model="tiny", max_tokens=60, messages=messages, stream=True)
        first = next(stream)
        process.send_signal(signal.SIGTERM)
        pieces = [first, *stream]
        assert pieces[-1].choices[0].finish_reason == "length"
        process.wait(60)
    finally:
        process.kill()
    assert (tmp_path / "kept" / "files" / id / "cache" / "chat.json").is_file()
    assert list((tmp_path / "kept" / "prefixes").iterdir())
    assert key[1] not in "".join(file.read_text() for file in tmp_path.rglob("*.yaml"))


def test_a_document_that_is_deleted_while_it_is_read_again_stays_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, "memory_mib=0") as server:
        id = upload(server.openai, text(200))
    with serving(tmp_path, "ratio=8") as server:
        read, left = type(server.service.lm).compress_iter, [id]

        def interrupted(*args: Any, **options: Any) -> Iterator[Any]:
            while left:
                server.service.documents.delete(left.pop())
            return read(*args, **options)

        monkeypatch.setattr(type(server.service.lm), "compress_iter", interrupted)
        assert asked(server.openai, id)[0]
        assert server.openai.files.list().data == [] and not list(server.service.documents.folder.iterdir())
