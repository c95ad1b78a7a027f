"""Configs of the user's own, beside conf/ and instead of it."""

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from beacon_lit.cli.command import check_added, conf_folder
from beacon_lit.cli.train import main


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configs in the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "own.yaml").write_text("# @package _global_\nseed: 17\n")
    (folder / "whole.yaml").write_text("answer: ${times:6,7}\n")
    return folder


def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    """The config that `train.py ARGUMENTS` composes."""
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, "--cfg", "job", "--resolve"])
    main()
    return OmegaConf.to_container(OmegaConf.create(capsys.readouterr().out))


@pytest.mark.parametrize("how", ["--config-dir=mine", "-cd=mine", "hydra.searchpath=[file://mine]"])
def test_an_experiment_of_the_users_own(
    how: str, mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = printed(monkeypatch, capsys, how, "model=tiny", "experiment=own", "run_folder=x")
    assert cfg["seed"] == 17 and cfg["model"]["path"] == "tiny"


@pytest.mark.parametrize("path", ["mine", "{absolute}"])
def test_another_folder_instead_of_conf(
    path: str, mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = path.format(absolute=mine)
    assert printed(monkeypatch, capsys, "--config-path", given, "--config-name", "whole") == {"answer": 42}


def test_a_plus_also_changes_a_setting_that_is_listed(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("model=tiny", "run_folder=x", "+trainer.enable_progress_bar=false", "+trainer.new.one=3")
    trainer = printed(monkeypatch, capsys, *arguments)["trainer"]
    assert trainer["enable_progress_bar"] is False and trainer["new"] == {"one": 3}


@pytest.mark.parametrize(
    ("added", "near"), [("+modle=qwen2", "module, model"), ("++max_steps=3", "beacon, tuning, data, ")]
)
def test_a_new_setting_that_nothing_reads_is_refused(added: str, near: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", added])
    with pytest.raises(SystemExit) as end:
        main()
    name = added.strip("+").partition("=")[0]
    line = f"error: {name} is not a setting, and nothing would read {added}; allowed: {near}"
    assert str(end.value).startswith(line)


def test_new_settings_that_are_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("+precision=bf16-mixed", "+length=512", "data.max_length=${length}", "+experiment=pretrain_qwen2")
    cfg = printed(monkeypatch, capsys, "model=tiny", "run_folder=x", *given[:3])
    assert cfg["data"]["max_length"] == 512 and cfg["trainer"]["precision"] == "bf16-mixed"
    check_added(given, [], conf_folder())


def test_a_path_in_the_users_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A shell replaces no tilde behind an equals sign, and Hydra refuses it. Quoted, it is an ordinary character."""
    monkeypatch.setenv("HOME", "/home/of a user")
    given = ("model=tiny", "run_folder=~/runs/a", "+data.added=~/b", "init_from='~/b'")
    cfg = printed(monkeypatch, capsys, *given)
    assert cfg["run_folder"] == "/home/of a user/runs/a" and cfg["data"]["added"] == "/home/of a user/b"
    assert cfg["init_from"] == "~/b"


def test_an_unknown_option_is_refused_before_hydra_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "model=tinny"])
    with pytest.raises(SystemExit, match="error: model=tinny is not allowed; allowed: tiny, "):
        main()
