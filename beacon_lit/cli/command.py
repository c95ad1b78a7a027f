"""Turn a function of a config into a command: find conf/, check the command line, let Hydra compose the config."""

import gc
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any, cast

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

import beacon_lit
from beacon_lit.cli.composing import report_composing
from beacon_lit.cli.folder import removed_if_refused
from beacon_lit.cli.messages import own_messages, quiet
from beacon_lit.cli.numbers import check_numbers
from beacon_lit.cli.threads import limit_threads

Check = Callable[[Sequence[str]], None]
_READ_IF_GIVEN = ("precision", "backbone_dtype")  # by oc.select in conf/trainer and conf/model
_ELSEWHERE = ("--config-dir", "-cd", "--config-path", "-cp", "hydra.searchpath")


def command(
    name: str, *checks: Check, completed: Callable[[Sequence[str]], list[str]] = list
) -> Callable[[TaskFunction], Callable[[], None]]:
    """Decorate a function of a config, so that calling it without arguments runs it as a command.

    Args:
        name: the config is conf/NAME.yaml with the overrides of the command line.
        checks: called with the command line before Hydra creates a folder; they raise SystemExit.
        completed: returns the command line that counts in place of the one that was given.

    Returns:
        the decorator.
    """

    def decorate(function: TaskFunction) -> Callable[[], None]:
        @hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=name)
        @wraps(function)
        def run(cfg: DictConfig) -> Any:
            quiet()
            limit_threads(cfg)
            if HydraConfig.get().mode == RunMode.MULTIRUN:  # a sweep goes on after a job that fails
                return function(cfg)
            with removed_if_refused(), own_messages():
                return function(cfg)

        def main() -> None:
            """Run the command line."""
            gc.freeze()  # what has been imported stays: not even the end of the process looks for garbage in it
            _resolve_config_path()
            check_options(sys.argv[1:], conf_folder())
            sys.argv[1:] = map(_set_or_add, completed([_at_home(entry) for entry in sys.argv[1:]]))
            settings = own_settings(name, conf_folder())
            if not _names_configs(sys.argv[1:]):
                check_added(sys.argv[1:], settings, conf_folder())
                check_numbers(get_args_parser().parse_args().overrides, name, conf_folder())
            for check in checks:
                check(sys.argv[1:])
            report_composing(settings)
            run()

        return main

    return decorate


def conf_folder() -> Path:
    """Return the folder of the configs: the copy inside an installed package, or else conf/ of the checkout."""
    package = Path(beacon_lit.__file__).parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def check_options(overrides: Sequence[str], conf: Path) -> None:
    """Refuse an option that a config group does not have; unlike Hydra's own error, list the likeliest option first.

    Args:
        overrides: the command line, such as "task=[perplexity]". Nothing is checked where the command line names
            further folders of configs; functions of a sweep are skipped.
        conf: the folder with one folder per group.

    Raises:
        SystemExit: names the setting, its value and the options.
    """
    if _names_configs(overrides):
        return
    for entry in overrides:
        group, _, chosen = entry.lstrip("+").partition("=")
        options = sorted(file.stem for file in (conf / group).glob("*.yaml")) if group.isidentifier() else []
        if not options or "(" in chosen:
            continue
        for option in filter(None, (part.strip(" []'\"") for part in chosen.split(","))):
            if option not in (*options, "null"):
                near = get_close_matches(option, options, cutoff=0.5)
                allowed = ", ".join(dict.fromkeys([*near, *options]))
                raise SystemExit(f"error: {group}={option} is not allowed; allowed: {allowed}")


def check_added(overrides: Sequence[str], settings: Sequence[str], conf: Path) -> None:
    """Refuse a new setting at the top, such as +modle=qwen2, which nothing would read.

    Args:
        overrides: the command line. A new setting that another one refers to, as ${name}, is allowed.
        settings: the command's own groups and settings.
        conf: the folder with one folder per group.

    Raises:
        SystemExit: names the setting, and similar ones.
    """
    for entry in overrides:
        added = re.match(r"\+\+?(\w+)=", entry)
        if added is None or added[1] in (*settings, *_READ_IF_GIVEN) or (conf / added[1]).is_dir():
            continue
        if not any(f"${{{added[1]}}}" in other for other in overrides):
            allowed = ", ".join(get_close_matches(added[1], settings, cutoff=0.6) or settings)
            raise SystemExit(f"error: {added[1]} is not a setting, and nothing would read {entry}; allowed: {allowed}")


def _at_home(entry: str) -> str:
    """Put the user's folder in place of `~` in `name=~/path`, which a shell leaves as it is."""
    name, given, path = entry.partition("=~/")
    return f"{name}={Path.home()}/{path}" if given and re.fullmatch(r"\+{0,2}[\w./]+", name) else entry


def _set_or_add(entry: str) -> str:
    """Let `+group.setting=value` also change a setting that exists: an earlier version may not have listed it."""
    return f"+{entry}" if re.match(r"\+\w+\.[^=]*=", entry) else entry


def own_settings(name: str, conf: Path) -> list[str]:
    """Return the groups and settings that conf/NAME.yaml itself lists, without those of its groups."""
    config = cast(DictConfig, OmegaConf.load(conf / f"{name}.yaml"))
    groups = [group for entry in config.get("defaults", []) if isinstance(entry, DictConfig) for group in entry]
    names = [str(setting) for setting in (*groups, *config) if setting not in ("defaults", "hydra")]
    return [setting for setting in dict.fromkeys(names) if not setting.startswith("override ")]


def _names_configs(overrides: Sequence[str]) -> bool:
    """Whether a command line names further folders of configs."""
    return any(entry.lstrip("+").startswith(_ELSEWHERE) for entry in overrides)


def _resolve_config_path() -> None:
    """Make `--config-path` relative to the current folder; Hydra would look for a relative path inside this package."""
    given = get_args_parser().parse_args().config_path
    if given is not None and not given.startswith("pkg://"):
        sys.argv += ["--config-path", str(Path(given).absolute())]  # the last one counts
