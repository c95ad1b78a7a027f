"""`model.path` means the same to every command: a GGUF file, an adapter's folder, or one clear sentence."""

import json
from pathlib import Path

import pytest
from hydra.utils import instantiate

from beacon_lit.cli.generate import generate
from beacon_lit.cli.look import look
from beacon_lit.cli.prepare import prepare
from beacon_lit.cli.train import train
from beacon_lit.runs import subject
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
