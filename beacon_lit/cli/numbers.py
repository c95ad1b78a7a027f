"""Refuse words where a setting is a number, before Hydra creates a folder."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from beacon_lit.checks import as_tuple

_ALSO_WORDS = ("devices",)  # the last part of names: Lightning takes "auto" and "0,1"
_NO_NUMBER = re.compile(r"\$\{(smollm2|cache|hydra|now|command|oc\.env):")  # defaults that are not worth computing


def check_numbers(overrides: Sequence[str], name: str, conf: Path) -> None:
    """Refuse a word for a setting whose default is a number, or a list of numbers.

    Args:
        overrides: settings of a command line; those that Hydra cannot read or compose are left to Hydra.
        name: the config is conf/NAME.yaml.
        conf: the folder of the configs.

    Raises:
        SystemExit: names the setting and its default.
    """
    try:
        parsed = OverridesParser.create().parse_overrides([entry for entry in overrides if "=" in entry])
    except HydraException:
        return
    groups = [override for override in parsed if (conf / override.key_or_group).is_dir()]
    words = [override for override in parsed if override not in groups and _is_word(override)]
    if not words:
        return
    defaults = _composed(name, conf, [str(override.input_line) for override in groups])
    for override in words:
        key = override.key_or_group
        default = _number(defaults, key)
        if default is not None and key.split(".")[-1] not in _ALSO_WORDS:
            raise SystemExit(f"error: {override.input_line} is not a number; allowed: numbers, such as {key}={default}")


def _is_word(override: Override) -> bool:
    """Whether an override replaces a setting by a word, or by a list with a word in it."""
    if override.is_delete() or override.is_add() or override.is_sweep_override():
        return False
    return any(isinstance(value, str) and not _reads_as_number(value) for value in as_tuple(override.value()))


def _reads_as_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return True
    return "${" in text


def _composed(name: str, conf: Path, groups: Sequence[str]) -> DictConfig:
    """Return the config with the options of groups, and without other settings; empty if Hydra refuses."""
    GlobalHydra.instance().clear()
    with suppress(HydraException), initialize_config_dir(str(conf), version_base="1.3"):
        return compose(name, overrides=list(groups))
    return OmegaConf.create()


def _number(defaults: DictConfig, key: str) -> Any:
    """Return the default of a setting if the default is a number or a list of numbers, else None."""
    with suppress(OmegaConfBaseException):
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(defaults, parent) if parent else defaults
        if not isinstance(node, DictConfig) or _NO_NUMBER.search(str(node._get_node(last))):
            return None
        value = node.get(last)
        numbers = [*as_tuple(value)]
        if numbers and all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
            return str(value).replace(" ", "")
    return None
