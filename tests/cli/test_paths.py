"""`model.path` means the same to every command: a GGUF file, an adapter's folder, or one clear sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.cli.checks import check_start
from beacon_lit.cli.generate import generate
from beacon_lit.cli.look import look
from beacon_lit.cli.messages import own_messages
from beacon_lit.cli.prepare import prepare
from beacon_lit.cli.train import train
from beacon_lit.runs import find_beacons, find_checkpoint, subject
from beacon_lit.tuning import Tuning
from tests.arch.checkpoint.test_gguf import tiny_model, write_gguf
from tests.arch.checkpoint.test_merging import save_adapter
from tests.configs import composed, small_backbone, small_model, small_run, small_text


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return small_text(tmp_path / "text.jsonl")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BEACON_CACHE", str(tmp_path / "cache"))
    model = tiny_model("qwen2")
    model.config.max_position_embeddings = 2048
    return write_gguf(tmp_path / "tiny.GGUF", model, "qwen2")


def test_train_and_generate_from_a_gguf_file(file: Path, text: Path, tmp_path: Path) -> None:
    run = small_run(file, text, tmp_path / "run")
    assert train(composed("train", *run))["train/loss"] > 0
    (tmp_path / "book.txt").write_text("hello hello " * 40)
    for chosen in ([f"checkpoint={tmp_path / 'run'}"], small_model(file)):
        answers = generate(
            composed(
                "generate", *chosen, f"file={tmp_path / 'book.txt'}", "questions=['hello?']", "ratio=2",
                "generation.max_new_tokens=3", f"run_folder={tmp_path / 'answers'}",
            )
        )  # fmt: skip
        assert len(answers) == 1 and answers[0]["tokens"] == 3


def test_look_and_prepare_need_the_tokenizer_alone(
    file: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look(composed("look", *small_run(file, text, tmp_path / "run")[:9], "data.num_workers=0"))
    assert "fox" in capsys.readouterr().out
    output = [f"output={tmp_path / 'packed'}", f"tokenizer={file}"]
    prepare(composed("prepare", *output, f"corpus.sources={{text: {text}}}", "corpus.amounts=128:1K"))
    assert json.loads((tmp_path / "packed" / "manifest.json").read_text())
    assert [entry.name.split("-")[1] for entry in (tmp_path / "cache").glob("tiny-*")] == ["tokenizer"]


def test_an_adapters_folder(tmp_path: Path) -> None:
    base = small_backbone(tmp_path / "base")
    save_adapter(base, tmp_path / "adapter")
    cfg = composed("generate", *small_model(tmp_path / "adapter"))
    lm, tokenizer = subject(cfg)
    assert lm.config._name_or_path == str(tmp_path / "adapter") and len(tokenizer) == 258


@pytest.mark.parametrize("part", ["backbone", "tokenizer"])
def test_a_path_with_nothing_to_load(part: str, tmp_path: Path) -> None:
    cfg = composed("generate", *small_model(tmp_path / "none"))
    with pytest.raises(Exception, match=f"path={tmp_path}/none: no such file or folder; allowed: a hub id, "):
        instantiate(cfg.model[part])


def said(command: Callable[[], Any]) -> str:
    """The line that a command ends with."""
    with pytest.raises(SystemExit) as error, own_messages():
        command()
    return str(error.value.code)


def test_an_error_names_the_setting_that_gave_the_path(text: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none"
    why = f"={missing}: no such file or folder; allowed: "
    run = small_run(missing, text, tmp_path / "run")
    assert said(lambda: train(composed("train", *run))).startswith(f"error: model.path{why}")
    assert said(lambda: look(composed("look", *run[:9]))).startswith(f"error: model.path{why}")
    assert said(lambda: subject(composed("generate", *small_model(missing)))).startswith(f"error: model.path{why}")
    assert said(lambda: subject(composed("serve", f"checkpoint={missing}"))).startswith(f"error: checkpoint{why}")
    prepared = composed(
        "prepare", f"output={tmp_path}", f"tokenizer={missing}", "corpus.sources={}", "corpus.amounts=8:1"
    )
    prepared.corpus.sources = {"text": str(text)}
    assert said(lambda: prepare(prepared)).startswith(f"error: tokenizer{why}")


def test_the_backbone_that_beacons_name_is_a_setting_of_its_own(tmp_path: Path) -> None:
    base = small_backbone(tmp_path / "base")
    BeaconLM.from_pretrained(base, BeaconConfig(window=8, ratios=2)).save_pretrained(tmp_path / "beacons")
    base.rename(tmp_path / "moved")
    line = said(lambda: subject(composed("generate", f"checkpoint={tmp_path / 'beacons'}")))
    assert line.startswith(f"error: backbone={base}: no such file or folder; ") and "(the backbone of " in line


@pytest.mark.parametrize("kind", ["beacons", "run", "ckpt"])
def test_beacons_alone_are_no_backbone_of_a_command(
    kind: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, path = small_backbone(tmp_path / "base"), tmp_path / kind
    path = path.with_suffix(".ckpt") if kind == "ckpt" else path
    folder = path / "beacons" if kind == "run" else path
    if kind != "ckpt":
        BeaconLM.from_pretrained(base, BeaconConfig(window=8, ratios=2)).save_pretrained(folder)
    monkeypatch.setattr(BeaconLM, "from_pretrained", None)
    line = said(lambda: subject(composed("evaluate", *small_model(path))))
    assert line.startswith(f"error: model.path={path} holds beacons alone; allowed: checkpoint={path}")
    line = said(lambda: train(composed("train", *small_run(path, text, tmp_path / "new"))))
    assert line.startswith(f"error: model.path={path} holds beacons alone; allowed: init_from={path}")


def test_the_home_folder_of_earlier_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("run/beacons", "run/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "run" / "beacons" / "config.json").touch()
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    assert find_beacons("~/run") == tmp_path / "run" / "beacons"
    assert find_checkpoint("~/run") == tmp_path / "run" / "checkpoints" / "last.ckpt"
    check_start("~/run", Tuning())
