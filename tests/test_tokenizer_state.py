"""A model is asked as it was trained: the tokenizer's state travels with beacons and checkpoints."""

import logging
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tokenizers import processors
from transformers import AutoTokenizer

from beacon_lit.cli import resolvers
from beacon_lit.cli.convert import convert
from beacon_lit.cli.evaluate import evaluate
from beacon_lit.cli.generate import generate
from beacon_lit.cli.train import train
from beacon_lit.data.encoding import prompt_ids, start_ids
from beacon_lit.data.templates import TEMPLATES, with_template
from beacon_lit.runs import subject
from beacon_lit.tiny import byte_tokenizer
from beacon_lit.tokenizer_state import saved_state, tokenizer_state, trained_tokenizer, with_state
from tests.configs import composed, small_run

resolvers.register()
VICUNA = TEMPLATES["vicuna"].source
PLACES = ["", "beacons", "checkpoints/last.ckpt"]


def small(inputs: tuple[Path, Path], folder: Path) -> list[str]:
    return [*small_run(*inputs, folder), "trainer.max_steps=1", "~callbacks.evaluation", "beacon.placement=interleave"]


@pytest.fixture(scope="module")
def run(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose data are in another chat template than the backbone's."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(composed("train", *small(inputs, folder), "data.template=vicuna"))
    return folder


@pytest.mark.parametrize("place", PLACES)
def test_trained_beacons_are_asked_in_the_template_of_their_training(
    place: str, run: Path, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    cfg = composed("generate", f"checkpoint={run / place}")
    _, tokenizer = subject(cfg)
    own = AutoTokenizer.from_pretrained(inputs[0])
    assert tokenizer.chat_template == VICUNA != own.chat_template
    assert tokenizer_state(tokenizer) == tokenizer_state(with_template(own, "vicuna"))
    book = tmp_path / "book.txt"
    book.write_text("A fox.")
    asked = ["questions=['Who?']", "generation.max_new_tokens=2", f"run_folder={tmp_path}", f"save={tmp_path / 'kept'}"]
    generate(composed("generate", f"checkpoint={run / place}", f"file={book}", "ratio=2", "keep=true", *asked))
    assert "USER: " in OmegaConf.load(tmp_path / "kept" / "chat.json").template.source


@pytest.mark.parametrize("place", PLACES)
def test_the_harness_asks_in_the_template_of_the_training(place: str, run: Path) -> None:
    harness = pytest.importorskip("beacon_lit.evaluation.harness")
    model = harness.HarnessLM.create_from_arg_string(f"checkpoint={run / place},ratio=2", {"device": "cpu"})
    assert model.apply_chat_template([{"role": "user", "content": "Who?"}]).endswith("USER: Who? ASSISTANT:")


@pytest.mark.parametrize("given", [None, "vicuna", "chatml"])
def test_an_explicit_template_counts_before_the_saved_one_with_a_warning(
    given: str | None, run: Path, inputs: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = [f"checkpoint={run}", "ratio=2", "data=text", f"data.train=[{inputs[1]}]", "data.max_length=160"]
    overrides += [f"data.validation=[{inputs[1]}]", "task=[passkey]", "task.passkey.lengths=[600]"]
    overrides += ["task.passkey.depths=[50]", "task.passkey.template=chat", f"run_folder={tmp_path}"]
    overrides += ["dense=false", "window_only=false"] + ([] if given is None else [f"data.template={given}"])
    with caplog.at_level(logging.WARNING):
        evaluate(composed("evaluate", *overrides))
    assert ("data.template=chatml in place of the chat template of" in caplog.text) == (given == "chatml")
    _, tokenizer = subject(composed("evaluate", *overrides))
    assert tokenizer.chat_template == TEMPLATES[given or "vicuna"].source


def test_resuming_in_another_template_is_refused(run: Path, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    resumed = [*small(inputs, tmp_path), "trainer.max_steps=2", f"resume={run}/checkpoints/last.ckpt"]
    with pytest.raises(ValueError, match=r"data\.template gives the chat_template .* the run that is resumed has"):
        train(composed("train", *resumed))
    train(composed("train", *resumed, "data.template=vicuna"))


def test_starting_from_beacons_of_another_template_is_said(
    run: Path, inputs: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        train(composed("train", *small(inputs, tmp_path), f"init_from={run}"))
    assert f"init_from={run} was trained in another template" in caplog.text


@pytest.mark.parametrize("to", ["beacons", "full", "published"])
@pytest.mark.parametrize("place", PLACES[1:])
def test_other_layouts_keep_the_tokenizer(to: str, place: str, run: Path, tmp_path: Path) -> None:
    convert(run / place, tmp_path / to, to)
    assert AutoTokenizer.from_pretrained(tmp_path / to).chat_template == VICUNA


def with_start(tokenizer, single: str):
    special = [("<|im_start|>", 256), ("<|im_end|>", 257)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single, special_tokens=special)
    return tokenizer


@pytest.mark.parametrize("around", ["$A", "<|im_start|> $A", "<|im_end|> <|im_start|> $A", "$A <|im_end|>"])
@pytest.mark.parametrize("other", ["$A", "<|im_end|> $A"])
def test_what_stands_before_a_text_is_part_of_the_state(around: str, other: str) -> None:
    trained = with_start(byte_tokenizer(), around)
    trained.pad_token, trained.eos_token = "<|im_start|>", "a"
    backbone = with_start(byte_tokenizer(), other)
    restored = with_state(backbone, tokenizer_state(trained), "last.ckpt")
    assert tokenizer_state(restored) == tokenizer_state(trained) != tokenizer_state(backbone)
    assert prompt_ids(restored, "fox") == prompt_ids(trained, "fox")
    assert (restored.pad_token_id, restored.eos_token_id) == (256, trained.eos_token_id)
    assert tokenizer_state(backbone) == tokenizer_state(with_start(byte_tokenizer(), other))


def test_a_checkpoint_of_another_vocabulary_is_refused(run: Path) -> None:
    other = byte_tokenizer()
    other.add_tokens(["<new>"])
    state = saved_state(run / "checkpoints" / "last.ckpt")
    assert state is not None
    with pytest.raises(ValueError, match=r"last\.ckpt was trained with another tokenizer"):
        with_state(other, state, "last.ckpt")


def test_checkpoints_of_earlier_versions_have_no_state(run: Path, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    del checkpoint["tokenizer"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    found = trained_tokenizer(tmp_path / "old.ckpt", str(inputs[0]))
    assert found.chat_template == AutoTokenizer.from_pretrained(inputs[0]).chat_template
    assert saved_state(tmp_path) is None and start_ids(found) == []
