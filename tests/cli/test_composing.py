"""A mistake on the command line ends in one line, without Hydra's report around it."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from lightning.fabric.utilities.exceptions import MisconfigurationException

from beacon_lit.cli import evaluate, generate, train
from beacon_lit.cli.command import conf_folder
from beacon_lit.cli.messages import own_messages
from beacon_lit.cli.numbers import check_numbers

TINY = ("model=tiny", "trainer=cpu")


@pytest.fixture(autouse=True)
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other job of Hydra, and an empty current folder with a file `taken`."""
    GlobalHydra.instance().clear()
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["ratio=3"], "ratios=3 is not allowed; allowed: divisors of window=256"),
        (["data=text", "data.train=[none.json]"], "data.validation has no value; allowed: data.validation=VALUE"),
        (["data=text", "data.train=[none.json]", "data.validation=[]"], "path='none.json' must name "),
        (["trainer.max_stepss=3"], "trainer.max_stepss is not a setting; allowed: trainer.max_steps, "),
        (["ratoi=4"], "ratoi is not a setting; allowed: ratio"),
        (["hydra.runn.dir=x"], "hydra.runn is not a setting; allowed: hydra.run"),
        (["data.train=[a.json,"], "data.train=[a.json,: not of the form setting=value; "),
        (["book.txt"], "book.txt: not of the form setting=value; "),
        (["hydra.run.dir=taken/run"], "taken/run: Not a directory"),
        (["trainer.precision=bf17"], "Precision 'bf17' is invalid"),
        (["optimizer.lr=abc"], "optimizer.lr=abc is not a number; allowed: numbers, such as optimizer.lr=0.0001"),
        (["trainer.max_steps=two"], "trainer.max_steps=two is not a number; allowed: numbers, such as trainer.max_st"),
        (["data.max_length=8k"], "data.max_length=8k is not a number; allowed: numbers, such as data.max_length=1024"),
        (["ratio=x"], "ratio=x is not a number; allowed: numbers, such as ratio=[2,4,8]"),
        (["ratio=[2,x]"], "ratio=[2,x] is not a number"),
        (["maxsteps=3"], "maxsteps is not a setting; allowed: trainer.max_steps"),
        (["lr=3"], "lr is not a setting; allowed: optimizer.lr"),
        (["~callback"], "callback is not a setting; allowed: callbacks"),
        (["~trainer.nope"], "trainer.nope is not a setting; allowed: a setting that --cfg job prints"),
        (["hydra/launcher=nope"], "In 'hydra/config': Could not find 'hydra/launcher/nope' Available options in"),
        (["resume=none"], "resume=none does not exist; allowed: "),
    ],
)  # fmt: skip
def test_a_mistake_in_training_is_one_line(
    arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *TINY, *arguments])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert str(ended.value).startswith(f"error: {line}") and "\n" not in str(ended.value)
    assert "Error executing job" not in capsys.readouterr().err


def test_a_mistake_in_evaluation_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "checkpoint=/none"])
    with pytest.raises(SystemExit, match=r"^error: checkpoint=/none: no such file or folder; allowed: "):
        evaluate.main()


@pytest.mark.parametrize(
    ("command", "argument", "line"),
    [
        (evaluate, "trainer=cpu", "trainer is not a setting; allowed: beacon, data, task, model, checkpoint, "),
        (evaluate, "task.passkey.lengths=8k", "task.passkey.lengths=8k is not a number; allowed: numbers, such as "),
        (generate, "max_new_tokens=8", "max_new_tokens is not a setting; allowed: generation.max_new_tokens"),
        (generate, "fiel=a.txt", "fiel is not a setting; allowed: file"),
    ],
)
def test_a_setting_of_another_place_is_found(
    command: ModuleType, argument: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["command.py", argument])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert str(ended.value).startswith(f"error: {line}") and "\n" not in str(ended.value)
    assert "optimizer" not in str(ended.value)  # which the model of the demo adds


def test_words_and_numbers_that_are_allowed() -> None:
    """Words where there is a choice, numbers in quotes, sweeps, new settings, references."""
    for words in (
        ["trainer.devices=auto", "trainer.devices='0,1'", "trainer.precision=16-mixed", "seed='3'", "model.path=x"],
        ["ratio=2,4,choice(8)", "+trainer.x=y", "seed=${oc.env:SEED}", "data.template=chatml", "~seed", "ratio=[2,4]"],
    ):
        check_numbers(words, "train", conf_folder())
    check_numbers(["ratio=adapt-1024", "devices=auto"], "evaluate", conf_folder())


@pytest.mark.parametrize(("mistake", "error"), [("ratio=3", Exception), ("ratoi=3", HydraException)])
def test_all_is_shown_on_request(mistake: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["train.py", *TINY, mistake])
    with pytest.raises(error):
        train.main()


def test_an_error_inside_a_library_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "_check", lambda cfg: __import__("json").loads("{"))
    monkeypatch.setattr(sys, "argv", ["train.py", *TINY])
    with pytest.raises(SystemExit):
        train.main()
    assert "JSONDecodeError" in (printed := capsys.readouterr().err) and "Traceback" in printed


def test_a_setting_that_lightning_refuses_is_one_line() -> None:
    with pytest.raises(SystemExit, match=r"^error: no such trainer$"), own_messages():
        raise MisconfigurationException("no such trainer")
