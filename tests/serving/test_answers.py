"""Answers through the real client are those of a chat on the same model."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from beacon_lit import BeaconChat
from tests.serving.servers import KEY, Running, idle, serving, text, until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("kept")) as running:
        yield running


def upload(server: Running, document: str, name: str = "book.txt") -> openai.types.FileObject:
    return server.openai.files.create(file=(name, document.encode()), purpose="user_data")


def asked(server: Running, question: str, *files: str, tokens: int = 12, **options: Any) -> Any:
    """A question about documents."""
    parts: list[Any] = [{"type": "text", "text": question}]
    parts += [{"type": "file", "file": {"file_id": file}} for file in files]
    messages = options.pop("messages", [])
    return server.openai.chat.completions.create(
        model="tiny", messages=[*messages, {"role": "user", "content": parts}], max_tokens=tokens, **options
    )


def chat(server: Running, system: str | None = None) -> BeaconChat:
    """A chat on the server's model."""
    return BeaconChat(server.service.lm, server.service.tokenizer, system)


def expected(server: Running, document: str, question: str, tokens: int = 12) -> str:
    other = chat(server)
    other.read(document, ratios=4)
    return other.ask(question, max_new_tokens=tokens, do_sample=False)


def test_models(server: Running) -> None:
    assert [model.id for model in server.openai.models.list()] == ["tiny"]
    assert server.openai.models.retrieve("tiny").owned_by == "beacon_lit"
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        server.openai.models.retrieve("other")


def test_a_document_is_read_once_and_asked_about(server: Running) -> None:
    document = text(180)
    file = upload(server, document)
    assert (file.status, file.filename, file.bytes) == ("processed", "book.txt", len(document))
    counts: Any = file.model_extra["beacon"]  # type: ignore[index]
    assert counts["tokens"] > len(document) - 64 and counts["slots"] < counts["tokens"] / 2
    assert 0 < counts["cache_bytes"] < counts["dense_bytes"]
    for question in ("Who is it about?", "And what?"):
        answer = asked(server, question, file.id)
        assert answer.choices[0].message.content == expected(server, document, question)
        assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 12
        assert answer.usage.prompt_tokens_details.cached_tokens >= counts["tokens"]
        assert answer.usage.prompt_tokens - answer.usage.prompt_tokens_details.cached_tokens < 100


def test_a_conversation_goes_on_from_its_last_turn(server: Running) -> None:
    document, other = text(150, 2), chat(server)
    other.read(document, ratios=4)
    file, turns = upload(server, document), []
    for question in ("One?", "Two?", "Three?"):
        said = other.ask(question, max_new_tokens=20, do_sample=False)
        parts: list[Any] = [{"type": "file", "file": {"file_id": file.id}}] if not turns else []
        turns.append({"role": "user", "content": [*parts, {"type": "text", "text": question}]})
        answer: Any = server.openai.chat.completions.create(model="tiny", messages=turns, max_tokens=20)
        assert answer.choices[0].message.content == said
        new = answer.usage.prompt_tokens - answer.usage.prompt_tokens_details.cached_tokens
        assert new < 120  # the question and what was held back, not the document
        turns.append({"role": "assistant", "content": said})


def test_a_long_system_prompt_is_read_once(server: Running) -> None:
    system, questions = text(120, 3), [f"What is {i}? " + text(60, 10 + i) for i in range(3)]
    used = []
    for question in questions:
        answer = asked(server, question, messages=[{"role": "system", "content": system}])
        other = chat(server, system)
        assert answer.choices[0].message.content == other.ask(question, ratios=4, max_new_tokens=12, do_sample=False)
        used.append(answer.usage.prompt_tokens_details.cached_tokens)
    assert used[0] < 100 and min(used[1:]) > len(system) - 64


def test_a_repeated_prompt_is_read_once(server: Running) -> None:
    prompt = text(300, 4)
    read = []
    for ending in (" a", " b" + text(50, 5), " c" + text(50, 6), " d" + text(50, 7)):
        answer: Any = server.openai.completions.create(model="tiny", prompt=prompt + ending, max_tokens=4)
        read.append(answer.usage.prompt_tokens - answer.usage.prompt_tokens_details.cached_tokens)
    assert read[0] > len(prompt) and max(read[2:]) < 400  # the second at the latest finds where prompts part


def test_a_stream_has_the_whole_answer(server: Running) -> None:
    file = upload(server, text(100, 8))
    whole = asked(server, "Who?", file.id, tokens=30)
    pieces = list(asked(server, "Who?", file.id, tokens=30, stream=True, stream_options={"include_usage": True}))
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(p.choices[0].delta.content or "" for p in pieces[:-1]) == whole.choices[0].message.content
    assert len(pieces) > 5 and pieces[-2].choices[0].finish_reason == "length"
    assert pieces[-1].choices == [] and pieces[-1].usage.completion_tokens == 30
    assert len({piece.id for piece in pieces}) == 1


def test_plain_completions(server: Running) -> None:
    prompt = text(90, 9)
    whole = server.openai.completions.create(model="tiny", prompt=prompt, max_tokens=8)
    ids = server.service.tokenizer(prompt)["input_ids"]
    again = server.openai.completions.create(model="tiny", prompt=ids, max_tokens=8)
    pieces = list(server.openai.completions.create(model="tiny", prompt=prompt, max_tokens=8, stream=True))
    assert whole.choices[0].text == again.choices[0].text == "".join(piece.choices[0].text for piece in pieces)
    assert whole.object == "text_completion" and pieces[-1].choices[0].finish_reason == "length"


def test_requests_about_different_documents_are_one_batch(server: Running) -> None:
    documents = [text(60 + 50 * i, 20 + i) for i in range(4)]
    files = [upload(server, document) for document in documents]
    most = 0.0
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(asked, server, f"Who is {i}?", file.id, tokens=100) for i, file in enumerate(files)]
        while not all(answer.done() for answer in answers):
            most = max(most, server.metric("rows"))
    assert most > 1
    for i, (document, answer) in enumerate(zip(documents, answers, strict=True)):
        said = answer.result().choices[0].message.content
        assert said == expected(server, document, f"Who is {i}?", 100)


def test_two_uploads_at_once(server: Running) -> None:
    documents = [text(300, 30), text(320, 31)]
    with ThreadPoolExecutor(2) as pool:
        files = list(pool.map(lambda document: upload(server, document), documents))
    assert files[0].id != files[1].id
    for document, file in zip(documents, files, strict=True):
        assert server.openai.files.content(file.id).text == document
        assert asked(server, "Who?", file.id).choices[0].message.content == expected(server, document, "Who?")


def test_options_of_answers(server: Running) -> None:
    greedy = asked(server, "Who?", tokens=30, temperature=0).choices[0].message.content
    drawn = [asked(server, "Who?", tokens=30, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    one, two, three = (answer.choices[0].message.content for answer in drawn)
    assert one == two != three and one != greedy
    assert asked(server, "Who?", tokens=30, temperature=1.5, top_p=1e-6).choices[0].message.content == greedy
    stop = greedy[4:6]
    stopped = asked(server, "Who?", tokens=30, stop=[stop, "no such text"])
    assert stopped.choices[0].message.content == greedy[: greedy.find(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    most = asked(server, "Who?", tokens=30, temperature=0, presence_penalty=2, frequency_penalty=2)
    assert most.choices[0].message.content != greedy
    assert asked(server, "Who?", max_completion_tokens=3, tokens=30).usage.completion_tokens == 3


def test_nothing_is_left_behind(server: Running) -> None:
    until(lambda: idle(server))
    assert server.metric("prefix_bytes") == server.service.prefixes.nbytes > 0


def test_files(server: Running, tmp_path: Path) -> None:
    file = upload(server, "A short one. Ünïcode.\r\n", "short.md")
    assert server.openai.files.retrieve(file.id) == file
    assert file.id in [one.id for one in server.openai.files.list()]
    assert server.openai.files.content(file.id).content == "A short one. Ünïcode.\r\n".encode()
    assert asked(server, "Who?", file.id).choices[0].message.content
    assert server.openai.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError, match="no file"):
        server.openai.files.retrieve(file.id)
    with pytest.raises(openai.NotFoundError, match="no file"):
        asked(server, "Who?", file.id)


def test_an_upload_shows_how_far_it_is(server: Running) -> None:
    files = {"file": ("book.txt", text(400, 40).encode())}
    lines = server.http.post("/files", files=files, data={"stream": "true"}).text.split("\n\n")
    *progress, file = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert lines[-2:] == ["data: [DONE]", ""] and file["object"] == "file" and file["status"] == "processed"
    read = [event["read"] for event in progress]
    assert len(read) > 3 and read == sorted(read) and read[-1] == progress[0]["tokens"] == file["beacon"]["tokens"]


def test_the_page_needs_no_key_and_asks_known_routes(server: Running) -> None:
    page = httpx.get(f"{server.url}/")
    assert page.headers["content-type"].startswith("text/html") and KEY not in page.text
    routes = {path for path in re.findall(r'(?:events\("|"/v1/)([a-z/]+)"', page.text)}
    assert routes == {"files", "chat/completions", "models"}
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
