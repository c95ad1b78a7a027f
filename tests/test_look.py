"""Looking at data: the command line, and the same on TensorBoard's text page."""

import subprocess
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from beacon_lit.cli.look import look
from beacon_lit.cli.train import train
from beacon_lit.module import _weighted_sum
from beacon_lit.objectives import LanguageModeling
from tests.arch.tiny import tiny, tokens
from tests.configs import ROOT, composed, small_backbone, small_model, small_run, small_text
from tests.warm import warm_python


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    return small_backbone(tmp_path_factory.mktemp("backbone"))


def overrides(backbone: Path, text: Path, folder: Path) -> list[str]:
    return [
        *small_model(backbone, 32), "ratio=2", "data=text",
        f"data.train=[{text}]", "data.max_length=160", f"data.cache={folder}/tokens",
    ]  # fmt: skip


def test_first_samples_and_the_mixture_are_printed(backbone: Path, tmp_path: Path, capsys) -> None:
    text = small_text(tmp_path / "text.jsonl")
    text.write_text(text.read_text() + '{"text": 3}\n{"text": "short"}\n')
    look(composed("look", *overrides(backbone, text, tmp_path), "count=2", "max_tokens=40"))
    shown = capsys.readouterr().out
    assert shown.count(" with loss ─") == 2
    assert "quick" in shown and "... " in shown and "1 wrong_type" in " ".join(shown.split())
    assert "too_short: fewer tokens than min_length=32" in " ".join(shown.split())


def test_retrieval_data_is_made_from_text(backbone: Path, tmp_path: Path, capsys) -> None:
    text = small_text(tmp_path / "text.jsonl", documents=60)
    chosen = [
        *small_model(backbone, 512), "ratio=2", "data=retrieval",
        f"data.train.0.path={text}", f"data.cache={tmp_path}/tokens",
    ]  # fmt: skip
    counts = [f"data.train.{i}.count=4" for i in range(1, 8)]
    look(composed("look", *chosen, *counts, "count=1"))
    shown = " ".join(capsys.readouterr().out.split())
    for kind in ("passkey", "needle", "key-value", "multi-needle", "codes", "copy"):
        assert f"{kind} in" in shown


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ([], "missing.jsonl"),
        (["data.train=${nothing}"], "nothing"),
    ],
)
def test_a_mistake_is_one_line(more: list[str], named: str, backbone: Path, tmp_path: Path) -> None:
    command = [warm_python(), str(ROOT / "look.py"), *overrides(backbone, tmp_path / "missing.jsonl", tmp_path), *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and named in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr


def test_a_run_writes_samples_and_the_mixture_for_tensorboard(backbone: Path, tmp_path: Path) -> None:
    text = small_text(tmp_path / "text.jsonl")
    run = tmp_path / "run"
    train(composed("train", *small_run(backbone, text, run), "trainer.max_steps=1", "~callbacks.evaluation"))
    events = EventAccumulator(str(next(run.rglob("events.out.*")).parent), size_guidance={"tensors": 0}).Reload()
    pages = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert {"data/mixture/text_summary", "data/sample_0/text_summary", "data/sample_2/text_summary"} <= set(pages)
    assert "<strong>" in pages["data/sample_0/text_summary"] and "| 76 |" in pages["data/mixture/text_summary"]


def test_tokens_count_in_the_loss_by_their_weights() -> None:
    lm = tiny("llama")
    batch = {
        "input_ids": tokens(2, 20), "attention_mask": torch.ones(2, 20, dtype=torch.long),
        "weights": torch.rand(2, 20, generator=torch.Generator().manual_seed(0)) * (torch.arange(20) % 3 > 0),
    }  # fmt: skip
    batch["labels"] = batch["input_ids"].masked_fill(batch["weights"] == 0, -100)

    def total(batch: dict) -> torch.Tensor:
        return _weighted_sum(LanguageModeling()(lm, batch, 2)[0], batch)

    losses = lm(batch["input_ids"], labels=batch["input_ids"], ratios=2).token_loss
    expected = (losses * batch["weights"])[:, 1:].sum()
    torch.testing.assert_close(total(batch), expected)
    alike = {**batch, "weights": (batch["weights"] > 0).float()}
    plain = lm(batch["input_ids"], labels=batch["labels"], ratios=2).loss
    torch.testing.assert_close(total(alike) / alike["weights"][:, 1:].sum(), plain)
    assert abs(expected / batch["weights"][:, 1:].sum() - plain) > 1e-3
    nothing = {**batch, "weights": torch.zeros(2, 20), "labels": torch.full((2, 20), -100)}
    assert total(nothing) == 0
