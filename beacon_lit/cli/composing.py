"""Say in one line why Hydra cannot compose a config or create the folder of a run, in place of Hydra's report."""

import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from hydra._internal import utils
from hydra.errors import OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from beacon_lit.cli.messages import full_errors, own_messages

_hydras_report = utils.run_and_report


def report_composing() -> None:
    """Replace Hydra's report of errors outside of a job, for the rest of the process."""
    utils.run_and_report = _run_and_report


def _run_and_report(func: Callable[[], Any]) -> Any:
    def run() -> Any:
        with own_messages():
            try:
                return func()
            except Exception as error:
                line = composing_error(error)
                if line is None or full_errors():
                    raise
                sys.exit(f"error: {line}")

    return _hydras_report(run)


def composing_error(error: Exception) -> str | None:
    """Return one line for an unreadable argument, an unknown setting or a folder that cannot be created, else None."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename is not None else None
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: not of the form setting=value; a value with spaces, brackets or commas needs quotes "
            "around the whole argument, as in 'ratio=[2, 4]'"
        )
    cause = error.__cause__
    if not isinstance(cause, (ConfigKeyError, ConfigAttributeError)) or not isinstance(cause.parent_node, DictConfig):
        return None
    assert cause.full_key is not None
    names = [str(name) for name in cause.parent_node]
    near = get_close_matches(str(cause.key), names, cutoff=0.5) or names
    prefix = cause.full_key.removesuffix(str(cause.key))
    allowed = ", ".join(prefix + name for name in near)
    return f"{cause.full_key} is not a setting; allowed: {allowed}"
