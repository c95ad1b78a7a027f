"""The benchmark of the server: the whole command against the smallest model, and each of its rules."""

import json
import sys

import httpx
import pytest

from benchmarks import serving
from benchmarks.asking import Asking, Missing
from benchmarks.clients import Shelf
from benchmarks.server import ROOT, Server
from benchmarks.tally import Tally, slope, spread
from benchmarks.texts import document
from tests.warm import warm_python

ARGUMENTS = ["--minutes", "0.03", "--clients", "3", "--pause", "0", "--longest", "60", "--every", "0.3"]


def forked(*arguments) -> Server:
    """A server that starts in milliseconds; its memory and threads cannot be measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", warm_python())
        return Server(*arguments)


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.restart.Server", forked)
    options = ["--out", str(tmp_path), "--serve", "model=tiny", "beacon.window=64", "ratio=4", "beacon.overlap=8"]
    status = serving.main([*ARGUMENTS, *options])
    printed, result = capsys.readouterr().out, json.loads((tmp_path / "serving.json").read_text())
    assert status == 0 and result["unexpected"] == [] and result["failures"] == 0, printed
    assert result["statuses"]["POST /v1/chat/completions stream 200"] and result["compared_answers"]
    assert result["tokens"]["completion"] and 0 < result["tokens"]["cached"] < result["tokens"]["prompt"]
    assert result["times"]["first_token_ms"]["p50"] <= result["times"]["first_token_ms"]["p95"]
    assert result["growth"]["rss_mib"]["max"] > 50 and result["growth"]["threads"]["100%"] >= 2
    assert len(result["samples"]) >= 3 and "unexpected: 0" in printed
    assert (tmp_path / "server.log").read_text() == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--clients", "0"], "clients=0"), (["--minutes", "0"], "minutes=0.0"), (["--serve", "tiny"], "serve='tiny'")],
)
def test_wrong_settings(tmp_path, words, said):
    with pytest.raises(ValueError, match=said):
        serving.main(["--out", str(tmp_path), *words])


def asking(tally: Tally, *responses: httpx.Response, crowded: bool = False) -> Asking:
    """A client of a server that gives these responses."""
    waiting = iter(responses)
    transport = httpx.MockTransport(lambda request: next(waiting))
    return Asking(httpx.Client(transport=transport, base_url="http://server"), "tiny", tally, crowded)


def error(status: int, code: str | None, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code}}, headers=headers)


def stream(*events: dict | str) -> httpx.Response:
    lines = (event if isinstance(event, str) else json.dumps(event) for event in events)
    return httpx.Response(200, text="".join(f"data: {line}\n\n" for line in lines))


PIECE = {"choices": [{"delta": {"content": "word"}}]}
USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
}


def test_other_statuses_are_unexpected():
    tally = Tally()
    client = asking(tally, error(500, None), error(404, "file_not_found"), httpx.Response(404, text="?"))
    assert client.send("GET", "/v1/models", (200, None)) is None and tally.failures == 1
    with pytest.raises(Missing):
        client.answer("/v1/chat/completions", {}, (404, "file_not_found"))
    assert tally.failures == 1
    assert client.send("GET", "/v1/files/file-0123456789abcdef01234567/content", (404, "file_not_found")) is None
    assert tally.failures == 2 and "GET /v1/files/ID/content 404 not an error of OpenAI's schema" in tally.statuses


def test_a_full_queue_is_expected_of_a_crowd_alone():
    full = [("Retry-After", "1")], []
    for crowded, headers, failures in ((True, full[0], 0), (True, full[1], 1), (False, full[0], 1)):
        tally = Tally()
        client = asking(tally, error(429, "queue_full", **dict(headers)), crowded=crowded)
        assert client.send("GET", "/v1/models", (200, None)) is None and tally.failures == failures


def test_streams():
    tally = Tally()
    whole, cut, broken = stream(PIECE, PIECE, USAGE, "[DONE]"), stream(PIECE, USAGE), stream({"error": {}}, "[DONE]")
    client = asking(tally, whole, stream(PIECE, PIECE), cut, broken)
    assert client.stream("/v1/chat/completions", {}) == "wordword" and tally.tokens["completion"] == 2
    assert len(tally.times["first_token_ms"]) == len(tally.times["token_ms"]) == 1
    assert client.stream("/v1/chat/completions", {}, pieces=1) is None and tally.failures == 0  # has gone away
    assert client.stream("/v1/chat/completions", {}) is None and tally.failures == 1
    assert client.stream("/v1/chat/completions", {}) is None and tally.failures == 3  # an error, and no usage


@pytest.mark.parametrize("rounding", [False, True])
def test_the_same_question_has_the_same_answer(rounding):
    tally = Tally(rounding)
    for question, answer in (("Who?", "a"), ("Where?", "b"), ("Who?", "a"), ("Where?", "c")):
        tally.same(question, answer)
    assert (tally.compared, tally.differing, tally.failures) == (2, 1, 0 if rounding else 1)


def test_limits_are_checked():
    tally = Tally()
    for used in (1.0, 2.5):
        serving._check_limits(
            {"seconds": 1, "document_mib": used, "prefix_mib": used}, {"disk_mib": "2", "memory_mib": "3"}, tally
        )
    assert tally.failures == 1 and "disk_mib=2" in tally.unexpected[0]


def test_documents_that_clients_delete_are_not_lost():
    shelf = Shelf()
    shelf.put(1, "a")
    shelf.put(2, "b")
    assert shelf.take(1) == "a" and shelf.take(1) is None
    shelf.missed(1, "a")
    shelf.missed(2, "b")
    assert shelf.lost == {"b"} and shelf.get(2) is None


def test_growth():
    assert slope([0, 1800, 3600], [5, 6, 7]) == pytest.approx(2) and slope([1], [5]) == 0
    assert spread([4.0]) == {"count": 1, "p50": 4, "p95": 4, "max": 4}
    samples = [{"seconds": float(second), "files": min(second, 50)} for second in range(101)]
    found = serving.growth(samples, "files")
    assert found == {"10%": 10, "50%": 50, "100%": 50, "max": 50, "per_hour": 0}


def test_documents_begin_alike():
    first, second, other = (document(number, 400).split() for number in (3, 4, 6))
    assert first[: len(first) // 2] == second[: len(second) // 2] and first != second and len(first) == len(second)
    assert first[:5] != other[:5] and len(document(15, 400).split()) == 400


def test_the_server_finds_what_python_path_has(tmp_path, monkeypatch):
    """Packages may be in a folder that only PYTHONPATH names; the checkout that is measured comes first."""
    found = tmp_path / "found"
    (tmp_path / "torch.py").write_text(  # what the package imports first
        f"import beacon_lit; open({str(found)!r}, 'w').write(beacon_lit.__file__); 1 / 0"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="did not start"):
        Server({"model": "tiny"}, tmp_path)
    assert found.read_text() == str(ROOT / "beacon_lit" / "__init__.py")
