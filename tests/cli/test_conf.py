"""Every file of conf/ composes, and every `_target_` in it exists."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import lightning
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from beacon_lit.cli.command import conf_folder
from tests.configs import ROOT

CONF = conf_folder()
COMMANDS = sorted(file.stem for file in CONF.glob("*.yaml"))
OPTIONS = sorted(str(file.relative_to(CONF).with_suffix("")) for file in CONF.glob("*/**/*.yaml"))
ELSEWHERE = {"judge": "+judge"}  # not a choice of train.yaml itself


def composed(command: str, *overrides: str) -> DictConfig:
    """conf/COMMAND.yaml with overrides, and Hydra's own settings."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, overrides=list(overrides), return_hydra_config=True)


def targets(node: Any) -> Iterator[str]:
    """All `_target_` in a nested config."""
    if isinstance(node, dict):
        yield from [node["_target_"]] if "_target_" in node else []
        node = list(node.values())
    for child in node if isinstance(node, list) else []:
        yield from targets(child)


def check_targets(cfg: DictConfig) -> None:
    """Every `_target_` can be imported and called."""
    found = list(targets(OmegaConf.to_container(cfg)))
    assert found and all(callable(get_object(target)) for target in found)


def test_a_checkout_uses_its_own_folder() -> None:
    assert CONF == ROOT / "conf" and len(COMMANDS) == 7 and len(OPTIONS) > 60


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command: str) -> None:
    cfg = composed(command)
    assert cfg.hydra.job.config_name == command
    check_targets(cfg)


def test_the_trainers_arguments_are_listed() -> None:
    """All that concern training, with Lightning's defaults unless a comment or the file says otherwise."""
    elsewhere = {"self", "callbacks", "logger", "limit_test_batches", "limit_predict_batches"}
    newer = {"enable_autolog_hparams", "model_registry"}  # which the oldest supported version does not have
    parameters = inspect.signature(lightning.Trainer.__init__).parameters
    listed = OmegaConf.load(CONF / "trainer" / "auto.yaml")
    assert parameters.keys() - elsewhere - newer == listed.keys() - {"_target_"}
    _, defaults = (CONF / "trainer" / "auto.yaml").read_text().split("# Lightning's own defaults")
    for name in re.findall(r"^(\w+):", defaults, re.M):
        if name not in ("plugins", "default_root_dir"):
            assert listed[name] == parameters[name].default, name


@pytest.mark.parametrize("chosen", OPTIONS)
def test_every_option_composes(chosen: str) -> None:
    group, _, option = chosen.rpartition("/")
    cfg = composed("train", f"{ELSEWHERE.get(group, group)}={option}")
    assert cfg.hydra.runtime.choices[group] == option
    check_targets(cfg)


def test_a_target_that_does_not_exist_is_found() -> None:
    cfg = OmegaConf.create({"a": [{"b": {"_target_": "beacon_lit.no_such_name"}}], "_target_": "beacon_lit.BeaconLM"})
    with pytest.raises(Exception, match="no_such_name"):
        check_targets(cfg)
