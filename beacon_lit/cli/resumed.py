"""Give a resumed run of training the settings of the run that it continues."""

import os
import shlex
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from beacon_lit.record import is_first
from beacon_lit.runs import find_checkpoint

_OWN = ("resume", "init_from", "run_folder", "hydra")  # settings that a run does not pass on


def with_settings_of_resumed(words: Sequence[str]) -> list[str]:
    """Return a command line of training, with the settings that the run of `resume` was given and this line does not.

    A run's folder has them in .hydra/overrides.yaml; without this file, or in a sweep, nothing is added.

    Args:
        words: the command line, without the command.
    """
    if {"-m", "--multirun"} & {*words}:
        return [*words]
    overrides = OverridesParser.create().parse_overrides([word for word in words if "resume=" in word])
    path = next((override.value() for override in overrides if override.key_or_group == "resume"), None)
    if path is None:
        return [*words]
    try:
        folder = find_checkpoint(str(path)).resolve().parents[1]
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    file = folder / ".hydra" / "overrides.yaml"
    if not file.is_file():
        return [*words]
    given = {_name(word) for word in words}
    earlier = [str(word) for word in OmegaConf.load(file)]
    earlier = [word for word in earlier if _name(word) not in given and _name(word).split(".")[0] not in _OWN]
    if earlier and is_first(os.environ):
        print(f"with the settings of {folder}: {shlex.join(earlier)}")
    return [*earlier, *words]


def _name(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]
