"""Say in one line why Hydra cannot compose a config or create the folder of a run, in place of Hydra's report."""

import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, cast

from hydra._internal import utils
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from beacon_lit.cli.messages import full_errors, own_messages

_MOST = 5  # settings of other places that are listed
_hydras_report = utils.run_and_report


def report_composing(settings: Sequence[str] = ()) -> None:
    """Replace Hydra's report of errors outside of a job, for the rest of the process.

    Args:
        settings: the command's own groups and settings.
    """
    utils.run_and_report = partial(_run_and_report, settings)


def _run_and_report(settings: Sequence[str], func: Callable[[], Any]) -> Any:
    def run() -> Any:
        with own_messages():
            try:
                return func()
            except Exception as error:
                line = composing_error(error, settings)
                if line is None or full_errors():
                    raise
                sys.exit(f"error: {line}")

    return _hydras_report(run)


def composing_error(error: Exception, settings: Sequence[str] = ()) -> str | None:
    """Return one line for an unreadable argument, an unknown setting or a folder that cannot be created, else None.

    Args:
        error: what Hydra raised.
        settings: the command's own groups and settings.
    """
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return f"{error.filename}: {error.strerror}" if error.filename is not None else None
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: not of the form setting=value; a value with spaces, brackets or commas needs quotes "
            "around the whole argument, as in 'ratio=[2, 4]'"
        )
    cause = error.__cause__
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and isinstance(cause.parent_node, DictConfig):
        assert cause.full_key is not None
        names = [str(name) for name in cause.parent_node] if "." in cause.full_key else settings
        return _unknown(cause.full_key, names, flat_names(cast(DictConfig, cause.parent_node._get_root())))
    if not isinstance(error, HydraException):
        return None
    said = " ".join(str(error).partition("Config search path:")[0].split())
    unknown = re.fullmatch(r"Could not (?:override|delete from config)\.? '([^']*)'.*", said)
    if unknown is None:
        return said
    given = unknown[1].partition("@")[0]
    return _unknown(given, [] if "." in given else settings, [])


def _unknown(given: str, names: Sequence[str], everywhere: Sequence[str]) -> str:
    """Say that there is no such setting, and what may have been meant.

    Args:
        given: the dotted name.
        names: what the last part of the name could have been.
        everywhere: the dotted names of all settings, of which those with nearly the same last part are listed first.
    """
    prefix, _, key = given.rpartition(".")
    last = {name: name.rpartition(".")[2] for name in everywhere}
    alike = get_close_matches(key, set(last.values()), cutoff=0.8)
    same = [name for word in alike for name in everywhere if last[name] == word][:_MOST]
    near = get_close_matches(key, names, cutoff=0.6)
    siblings = [f"{prefix}.{name}" if prefix else name for name in near or ([] if same else names)]
    allowed = ", ".join(dict.fromkeys([*same, *siblings])) or "a setting that --cfg job prints"
    return f"{given} is not a setting; allowed: {allowed}"


def flat_names(config: DictConfig, prefix: str = "") -> list[str]:
    """Return the dotted names of all settings, without resolving any, and without Hydra's own."""
    names: list[str] = []
    for key in map(str, config):
        node = config._get_node(key)
        inner = isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation()
        if inner and key != "hydra":
            names += flat_names(cast(DictConfig, node), f"{prefix}{key}.")
        names.append(f"{prefix}{key}")
    return names
