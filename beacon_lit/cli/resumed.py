"""Complete the command line of training that resumes a run with the settings of the run."""

import os
import shlex
from collections.abc import Sequence

from omegaconf import OmegaConf

from beacon_lit.cli.earlier import paths
from beacon_lit.record import is_first
from beacon_lit.runs import find_checkpoint

_OWN = ("resume", "init_from", "run_folder", "hydra")  # settings that a run does not pass on


def with_settings_of_resumed(words: Sequence[str]) -> list[str]:
    """Return a command line of training, with those settings of the run that it resumes which it does not set itself.

    These are the settings of the run's own command line, in .hydra/overrides.yaml. Without this file, or in a sweep,
    nothing is added.

    Args:
        words: the command line, without the command.
    """
    resumed = paths(words, "resume")
    if not resumed or {"-m", "--multirun"} & {*words}:
        return [*words]
    try:
        folder = find_checkpoint(resumed[0][1]).resolve().parents[1]
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
