"""What can be checked at the start is checked before a model is loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.cli import resolvers
from beacon_lit.cli.checks import check_accelerator, check_optimizer, check_trained, leave_out_unchosen, members
from beacon_lit.cli.evaluate import evaluate
from beacon_lit.cli.generate import adaptive, generate
from beacon_lit.cli.train import train
from beacon_lit.record import flat_settings
from beacon_lit.runs import subject
from tests.configs import composed, small_run

resolvers.register()
VALIDATED = ["trainer.val_check_interval=1", "callbacks.evaluation=null", "logger=none", "trainer.max_steps=2"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["trainer.val_check_interval=2", "trainer.limit_val_batches=0"],
            r"trainer\.limit_val_batches=0 is not allowed",
        ),
        (["trainer.val_check_interval=2", "data.validation=[]"], "needs validation data; allowed: data.validation"),
        (
            ["trainer.check_val_every_n_epoch=1", "data.validation=[]"],
            "check_val_every_n_epoch=1 needs validation data",
        ),
        (["trainer.limit_val_batches=5"], r"limit_val_batches=5 needs trainer\.val_check_interval"),
        (["trainer.val_check_interval=5"], r"val_check_interval=5 is not allowed: training ends after 4 batches"),
        (["optimized_metric=val/loss"], r"optimized_metric=val/loss needs trainer\.val_check_interval"),
        (
            ["callbacks=[default,best]", "callbacks.best.monitor=eval/x", "callbacks.evaluation=null"],
            "best.monitor=eval/x",
        ),
        (["trainer=gpu"], r"trainer\.accelerator=gpu: PyTorch finds no GPU here; allowed: cpu, auto"),
        (["callbacks.checkpoint.dirpath=/dev/null/x"], r"callbacks\.checkpoint\.dirpath=/dev/null/x: Not a directory"),
        (["logger.tensorboard.save_dir=/dev/null/x"], r"logger\.tensorboard\.save_dir=/dev/null/x"),
        (["data.cache=/dev/null/x"], r"data\.cache=/dev/null/x: Not a directory; allowed: a folder that can be"),
        (["init_from=no-such"], "init_from=no-such does not exist"),
        (["optimizer.learning_rate=1"], "learning_rate"),
        (["schedule.name=lineer"], "lineer"),
        (["data.validation=[no-such.jsonl]"], "no-such.jsonl"),
    ],
)
def test_training_refuses_before_it_loads_a_model(
    overrides: list[str], message: str, inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BeaconLM, "from_pretrained", None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    added = [f"+{override}" if "learning_rate" in override else override for override in overrides]
    with pytest.raises(Exception, match=message):
        train(composed("train", *small_run(*inputs, tmp_path), *added))


def test_an_interval_alone_validates(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    assert train(composed("train", *small_run(*inputs, tmp_path), *VALIDATED))["val/loss"] > 0


@pytest.mark.parametrize(
    "member", ["callbacks.evaluation", "callbacks.nan_guard", "logger.tensorboard", "task.passkey"]
)
def test_null_switches_a_member_of_a_group_off(member: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    short = ["trainer.max_steps=1", "callbacks.evaluation.modes=[dense]", "callbacks.evaluation.at_start=false"]
    off = [setting for setting in small_run(*inputs, tmp_path) if not setting.startswith(f"{member}.")]
    kept = [setting for setting in short if not setting.startswith(f"{member}.")]
    metrics = train(composed("train", *off, *kept, f"{member}=null"))
    names = {name.split("/")[1] for name in metrics if name.startswith("eval/")}
    expected = {"callbacks.evaluation": set(), "task.passkey": {"perplexity"}}.get(member, {"perplexity", "passkey"})
    assert names == expected
    assert (tmp_path / "tensorboard").exists() == (member != "logger.tensorboard")


def test_null_leaves_a_task_out_of_an_evaluation(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    small = ["model=tiny", "beacon.window=32", "ratio=2", "data=text", f"data.validation=[{inputs[1]}]"]
    small += ["task.perplexity.length=64", "task.perplexity.max_pieces=1", f"run_folder={tmp_path}", "dense=false"]
    found = evaluate(composed("evaluate", *small, "task.passkey=null"))
    assert {name.split("/")[0] for name in found} == {"perplexity"}
    with pytest.raises(ValueError, match=r"task=\[\] is not allowed"):
        evaluate(composed("evaluate", *small, "task.passkey=null", "task.perplexity=null"))


def test_members_are_those_that_are_not_null() -> None:
    assert members({"a": {"b": None}, "c": None}) == {"a": {"b": None}} and members(None) == {}
    assert flat_settings({"a": None}) == {"a": None}


@pytest.fixture
def larger(inputs: tuple[Path, Path], tmp_path: Path) -> Path:
    """A folder with the tokenizer of the small backbone, and a token more than the backbone's embedding has rows."""
    tokenizer = AutoTokenizer.from_pretrained(inputs[0])
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "larger")
    return tmp_path / "larger"


@pytest.mark.parametrize("command", ["train", "evaluate", "generate"])
def test_a_tokenizer_larger_than_the_embedding(
    command: str, inputs: tuple[Path, Path], larger: Path, tmp_path: Path
) -> None:
    small = ["model=llama3", f"model.path={inputs[0]}", f"model.tokenizer.pretrained_model_name_or_path={larger}"]
    window = ["beacon.window=64", "beacon.overlap=0"]
    given: dict[str, tuple[Any, list[str]]] = {
        "train": (train, [*small_run(*inputs, tmp_path / "run"), *small[2:]]),
        "evaluate": (evaluate, [*small, *window, f"run_folder={tmp_path}/run"]),
        "generate": (
            generate,
            [*small, *window, f"file={inputs[1]}", "questions=[Who?]", f"run_folder={tmp_path}/run"],
        ),
    }
    function, overrides = given[command]
    with pytest.raises(ValueError, match=r"model\.tokenizer has the id 258 \('<new>'\), but .* has 258 rows; allowed"):
        function(composed(command, *overrides))


def test_files_of_tasks_are_missed_before_training(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    small = [setting for setting in small_run(*inputs, tmp_path) if not setting.startswith("task.")]
    asked = ["task=[longbench]", "task.longbench.path=no-such", "callbacks.evaluation.at_start=false"]
    with pytest.raises(ValueError, match="no-such"):
        train(composed("train", *small, *asked))
    assert not (tmp_path / "checkpoints").glob("*") or not [*(tmp_path / "checkpoints").glob("*")]


def test_modes_are_checked_before_training(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    modes = ["callbacks.evaluation.modes=[3]", "callbacks.evaluation.at_start=false"]
    with pytest.raises(ValueError, match="3"):
        train(composed("train", *small_run(*inputs, tmp_path), *modes))
    assert not [*(tmp_path / "checkpoints").glob("*")]


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"trainer\.devices=4 is not allowed: this machine has 2; allowed: 1 to 2"):
        check_accelerator("gpu", 4, "trainer.")
    for devices in (1, 2, -1, "auto"):
        check_accelerator("gpu", devices)
    check_accelerator("cpu", 4)


def test_a_good_optimizer_passes() -> None:
    check_optimizer(torch.optim.SGD, None, -1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["checkpoint=x", "beacon.window=64"], "beacon.window=64 is not allowed with checkpoint: trained beacons have"),
        (["beacon=select", "checkpoint=x"], "beacon=select is not allowed with checkpoint"),
        (["checkpoint=x", "model.path=y"], "model.path=y is not allowed with checkpoint, .*; allowed: backbone=PATH"),
        (["checkpoint=x", "model=qwen2"], "model=qwen2 is not allowed with checkpoint, .*; allowed: backbone=PATH"),
        (["checkpoint=x", "model.backbone.beacon_dtype=float16"], "model.backbone.beacon_dtype=float16 is not allowed"),
        (
            ["checkpoint=x", "+model.backbone.hf_config.vocab_size=3"],
            "model.backbone.hf_config.vocab_size=3 is not all",
        ),
        (["checkpoint=x", "model.tokenizer.use_fast=true"], "model.tokenizer.use_fast=true is not allowed"),
    ],
)
def test_what_a_checkpoint_would_replace_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        check_trained(overrides)
    check_trained([override for override in overrides if override != "checkpoint=x"])
    check_trained(["checkpoint=x", "ratio=4", "model.backbone.attn=sdpa", "+model.backbone.rope_parameters={}"])
    check_trained(["checkpoint=x", "backbone=y", "allow_other_backbone=true"])


@pytest.mark.parametrize("setting", ["backbone=y", "allow_other_backbone=true", "+backbone=y"])
def test_what_only_a_checkpoint_has_is_refused_without_one(setting: str) -> None:
    with pytest.raises(SystemExit, match=r"=.* is not allowed without checkpoint"):
        check_trained([setting])
    check_trained([f"{setting.partition('=')[0]}=null"])


@pytest.mark.parametrize("name", ["evaluate", "generate", "serve"])
def test_options_of_the_backbone_count_with_a_checkpoint(name: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    lm = BeaconLM.from_pretrained(str(inputs[0]), BeaconConfig(window=32, ratios=2))
    lm.save_pretrained(tmp_path / "beacons")
    linear = "{rope_type: linear, factor: 2.0, rope_theta: 10000.0}"
    given = [
        f"checkpoint={tmp_path / 'beacons'}",
        f"+model.backbone.rope_parameters={linear}",
        "model.backbone.attn=sdpa",
    ]
    read = subject if name == "evaluate" else adaptive
    loaded, _ = read(composed(name, *given))
    assert loaded.config.rope_parameters["rope_type"] == "linear" and loaded.attn == "sdpa"
    plain, _ = read(composed(name, given[0]))
    assert plain.config.rope_parameters["rope_type"] == "default" and plain.attn == "auto"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["load={chat}", "save={tmp}/new"], "save=.*/new: nothing new to save; allowed: with file=... or keep=true"),
        (["load={chat}", "ratio=4"], "ratio=4 is not allowed without file"),
        (["file={text}", "save=/dev/null/x/y"], "save=/dev/null/x: Not a directory"),
    ],
)
def test_generate_refuses_before_it_loads_a_model(
    overrides: list[str], message: str, inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beacon_lit.cli.generate.subject", None)
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "chat.json").touch()
    given = [override.format(chat=tmp_path / "chat", tmp=tmp_path, text=inputs[1]) for override in overrides]
    with pytest.raises(ValueError, match=message):
        generate(composed("generate", "model=tiny", "questions=[Who?]", f"run_folder={tmp_path}/run", *given))


def test_settings_of_tasks_that_are_not_chosen_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """An experiment's settings of three tasks, one of which the command line chooses."""
    cfg = composed("train", "experiment=qwen2_5_coder", "task=[passkey]", "run_folder=x")
    with caplog.at_level("INFO", "beacon_lit"):
        leave_out_unchosen(cfg, "task", "callbacks", "logger")
    assert list(cfg.task) == ["passkey"] and cfg.task.passkey.samples == 4
    found = [line.split()[0] for line in caplog.messages]
    assert found == ["task.perplexity", "task.answer_loss"]
    caplog.clear()
    leave_out_unchosen(cfg, "task", "callbacks", "logger")
    assert not caplog.messages


def test_training_on_one_task_of_an_experiment(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    overrides = small_run(*inputs, tmp_path)
    overrides = [each for each in overrides if "passkey" not in each]
    cfg = composed("train", *overrides, "task=[perplexity]", "+task.passkey.samples=3", "+callbacks.best.monitor=x")
    assert not any("passkey" in name for name in train(cfg))
