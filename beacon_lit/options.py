"""The options of config groups: which there are, and which one was meant."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

_ELSEWHERE = ("--config-dir", "-cd", "--config-path", "-cp", "hydra.searchpath")


def check_options(overrides: Sequence[str], conf: Path) -> None:
    """Refuse an option that a config group does not have, before Hydra lists the options in its own words and order.

    Args:
        overrides: the command line, such as "task=[perplexity]". Where it names further folders of configs, or
            functions of a sweep, nothing is checked.
        conf: the folder with a folder per group.

    Raises:
        SystemExit: naming the options, the likeliest first.
    """
    if any(entry.lstrip("+").startswith(_ELSEWHERE) for entry in overrides):
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
