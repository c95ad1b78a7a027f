"""Asking about a text through the real config."""

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console
from transformers import AutoTokenizer, set_seed

import beacon_lit.cli.generate as command
from beacon_lit import BeaconChat, BeaconConfig, BeaconLM
from beacon_lit.arch.nn.decoder import run_layer
from beacon_lit.chat import terminal
from beacon_lit.cli import resolvers
from beacon_lit.cli.generate import generate
from beacon_lit.runs import subject
from tests.configs import ROOT, WORDS, composed, small_backbone
from tests.warm import warm_python

resolvers.register()
TEXT = " ".join(WORDS * 20)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    file = tmp_path / "book.txt"
    file.write_text(TEXT, encoding="utf-8-sig")
    return file


def run(tmp_path: Path, *overrides: str) -> list[dict[str, Any]]:
    tiny = ["model=tiny", "beacon.window=64", "generation.max_new_tokens=5", f"run_folder={tmp_path / 'run'}"]
    return generate(composed("generate", *tiny, *overrides))


def test_questions_are_asked_of_the_text_alone(book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = run(tmp_path, f"file={book}", "ratio=4", "questions=['Who [is] it?','Who [is] it?','What?']")
    assert [answer["question"] for answer in answers] == ["Who [is] it?", "Who [is] it?", "What?"]
    assert answers[0]["answer"] == answers[1]["answer"] and all(answer["tokens"] == 5 for answer in answers)
    lines = (tmp_path / "run" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == answers
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").beacon.window == 64
    shown = capsys.readouterr().out
    assert "> Who [is] it?" in shown and answers[2]["answer"] in shown and "tokens: 5 in" in shown
    assert "reading book.txt" in shown and "slots (3." in shown and "MiB" in shown


def model() -> tuple[BeaconLM, Any]:
    """The one that `run` has."""
    set_seed(0)
    return subject(composed("generate", "model=tiny", "beacon.window=64"))


@pytest.mark.parametrize("command", ["generate", "serve"])
def test_a_model_is_compiled_on_demand(command: str) -> None:
    plain, compiled = (subject(composed(command, "model=tiny", f"compile={it}"))[0] for it in ("false", "true"))
    assert plain.decode_layer is run_layer and compiled.decode_layer is not run_layer


@pytest.mark.parametrize("keep", [False, True])
def test_the_answers_are_those_of_a_chat(keep: bool, book: Path, tmp_path: Path) -> None:
    overrides = [f"file={book}", "questions=['Who?','What?']", f"keep={keep}", "ratio=2", "system=Short."]
    answers = run(tmp_path, *overrides, f"save={tmp_path / 'kept'}")
    chat = BeaconChat(*model(), "Short.")
    chat.read(TEXT, ratios=2)
    expected = [chat.ask(question, keep=keep, max_new_tokens=5) for question in ("Who?", "What?")]
    assert [answer["answer"] for answer in answers] == expected
    saved = BeaconChat.load(tmp_path / "kept", *model())
    assert saved.messages == chat.messages and saved.ids == chat.ids


def test_a_text_is_read_once_for_all(book: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("Who\u2028is\x85it?\n\n  \nWhat?\r\n", encoding="utf-8", newline="")
    first = run(tmp_path, f"file={book}", f"questions_file={questions}", f"save={tmp_path / 'kept'}")
    again = run(tmp_path, f"load={tmp_path / 'kept'}", f"questions_file={questions}")
    assert [answer["question"] for answer in first] == ["Who\u2028is\x85it?", "What?"]
    assert [answer["answer"] for answer in again] == [answer["answer"] for answer in first]


def test_questions_come_from_a_pipe(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for lines in ("Who?\nWhat?\n", "\nWho?\n\n  \nWhat?\n\n", "Who?\nWhat?\n /exit\nnot this\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        answers = run(tmp_path, f"file={book}")
        assert [answer["question"] for answer in answers] == ["Who?", "What?"]
        assert "> Who?\n" in capsys.readouterr().out


def test_a_terminal_says_how_to_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("Who?\n\n"))
    assert [*terminal.asked(Console(highlight=False, markup=False))] == ["Who?"]
    assert "/exit, Ctrl-D or Ctrl-C ends" in capsys.readouterr().out


def test_without_a_ratio_the_smallest_that_fits_is_taken(book: Path, tmp_path: Path) -> None:
    slots = []
    for positions in (4096, 800):  # with 1,024 tokens more, 1,216 and 640 slots at ratios 2 and 4
        kept = tmp_path / str(positions)
        positions_override = f"model.backbone.hf_config.max_position_embeddings={positions}"
        run(tmp_path, f"file={book}", positions_override, "questions=[]", f"save={kept}")
        set_seed(0)
        lm, tokenizer = subject(composed("generate", "model=tiny", "beacon.window=64", positions_override))
        slots.append(BeaconChat.load(kept, lm, tokenizer).cache.beacon_slots)
    windows = len(TEXT) // 64
    assert slots[0] == windows * 32 and slots[1] in (windows * 16, windows * 8)


def test_beacons_of_a_checkpoint(book: Path, tmp_path: Path) -> None:
    backbone = small_backbone(tmp_path / "backbone")
    lm = BeaconLM.from_pretrained(str(backbone), BeaconConfig(window=32, ratios=4, placement="interleave"))
    lm.save_pretrained(tmp_path / "beacons")
    overrides = [f"checkpoint={tmp_path / 'beacons'}", f"file={book}", "questions=Who?"]
    (answer,) = run(tmp_path, *overrides, "ratio=8")
    chat = BeaconChat(lm, AutoTokenizer.from_pretrained(backbone))
    chat.read(TEXT, ratios=8)
    assert answer["answer"] == chat.ask("Who?", max_new_tokens=5)
    written = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert written.beacon.window == 32 and written.model.path == str(backbone)


WRONG = [
    ([], "nothing to read; allowed: file=book.txt"),
    (["file=nowhere.txt"], "file=nowhere.txt: no such file"),
    (["file={tmp}/empty.txt"], "empty.txt is empty"),
    (["file={tmp}/latin.txt"], "latin.txt is not UTF-8 .byte 3."),
    (["file={book}", "questions_file=nowhere.txt"], "questions_file=nowhere.txt: no such file"),
    (["file={book}", "questions=[Who?]", "questions_file={book}"], "not allowed beside questions"),
    (["file={book}", "questions=[Who?,' ']"], "questions that are not empty"),
    (["load=nowhere"], "nowhere holds no saved chat"),
    (["load={tmp}/chat", "system=Short."], "system=Short. is not allowed beside load"),
    (["file={book}", "save={tmp}"], "holds something other than a chat"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG, ids=[message for _, message in WRONG])
def test_mistakes_are_named_before_anything_is_loaded(
    overrides: list[str], message: str, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "chat.json").write_text("{}")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("Caf\u00e9".encode("latin-1"))
    monkeypatch.setattr(command, "subject", lambda cfg: pytest.fail("loaded a model"))
    with pytest.raises(ValueError, match=message):
        run(tmp_path, *(override.format(book=book, tmp=tmp_path) for override in overrides))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ratio=5", "ratios=5"),
        ("generation.max_new_tokens=0", "max_new_tokens=0"),
        ("+generation.temprature=1", "temprature is not allowed"),
        ("model.backbone.hf_config.max_position_embeddings=100", "position slots"),
    ],
)
def test_mistakes_are_named_before_anything_is_read(override: str, message: str, book: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, f"file={book}", "questions=Who?", override)


def interrupting(calls: int) -> Callable[..., Any]:
    """Ctrl-C at that call."""
    held = terminal.held

    def call(*args: Any) -> Any:
        nonlocal calls
        calls -= 1
        if calls == 0:
            raise KeyboardInterrupt
        return held(*args)

    return call


def test_what_was_read_before_an_interruption_can_be_kept(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    overrides = [f"file={book}", "questions=Who?", f"save={kept}"]
    with monkeypatch.context() as patched:
        patched.setattr(terminal, "held", interrupting(2))
        assert run(tmp_path, *overrides) == []
    assert f"load={kept} goes on from there" in capsys.readouterr().out
    again = run(tmp_path, *overrides, f"load={kept}")
    assert again[0]["answer"] == run(tmp_path, f"file={book}", "questions=Who?")[0]["answer"]


def test_an_answer_that_is_stopped_leaves_the_next_question(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = command.answer

    def stopped(chat: BeaconChat, question: str, *args: Any) -> dict[str, Any]:
        if question == "Who?":
            raise KeyboardInterrupt
        return tell(chat, question, *args)

    monkeypatch.setattr(command, "answer", stopped)
    monkeypatch.setattr("sys.stdin", io.StringIO("Who?\nWhat?\n"))
    assert [answer["question"] for answer in run(tmp_path, f"file={book}")] == ["What?"]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, f"file={book}", "questions=[Who?,What?]")


def test_the_command_line(book: Path, tmp_path: Path) -> None:
    arguments = ["model=tiny", "beacon.window=64", "generation.max_new_tokens=5", f"run_folder={tmp_path / 'run'}"]

    def call(*more: str) -> subprocess.CompletedProcess[str]:
        started = [warm_python(), str(ROOT / "generate.py"), *arguments, f"hydra.run.dir={tmp_path / 'run'}", *more]
        return subprocess.run(started, input="Who?\nWhat?\n", capture_output=True, text=True, timeout=300, cwd=ROOT)

    done = call(f"file={book}")
    assert done.returncode == 0 and done.stdout.count("tokens: 5 in") == 2 and "Traceback" not in done.stderr
    assert done.stdout.index("> Who?") < done.stdout.index("> What?")
    wrong = call("file=nowhere.txt")
    assert wrong.returncode == 1 and wrong.stderr.strip() == (
        "error: file=nowhere.txt: no such file; allowed: a text file in UTF-8"
    )
