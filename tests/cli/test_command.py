"""Configs of the user's own, beside conf/ and instead of it."""

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

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


def test_an_unknown_option_is_refused_before_hydra_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "model=tinny"])
    with pytest.raises(SystemExit, match="error: model=tinny is not allowed; allowed: tiny, "):
        main()
