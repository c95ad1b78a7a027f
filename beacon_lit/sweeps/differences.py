"""Find the settings that differ between runs."""

from collections.abc import Sequence
from typing import Any

from beacon_lit.sweeps.jobs import Job

MISSING = "-"
IGNORED = ("run_folder", "optimized_metric")


def swept(jobs: Sequence[Job]) -> dict[str, list[str]]:
    """Return the settings that differ between runs, as setting -> value in each run.

    Config groups come first. Settings that merely follow from the choice of a group are left out (`alpha` follows from
    `objective=distill`), unless they were given explicitly.
    """
    choices = _differing([job.choices for job in jobs])
    chosen = list(zip(*choices.values(), strict=True)) if choices else [()] * len(jobs)
    given = frozenset().union(*(job.given for job in jobs))
    settings = {
        name: values
        for name, values in _differing([job.config for job in jobs]).items()
        if name not in IGNORED and (name in given or not _follows(values, chosen))
    }
    return {**choices, **{name: values for name, values in settings.items() if name not in choices}}


def _differing(values: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    names = dict.fromkeys(name for one in values for name in one)
    columns = {name: [_text(one.get(name, MISSING)) for one in values] for name in names}
    return {name: column for name, column in columns.items() if len(set(column)) > 1}


def _follows(values: Sequence[str], chosen: Sequence[tuple[str, ...]]) -> bool:
    """Whether runs with the same choices always have the same value."""
    return len(set(zip(chosen, values, strict=True))) == len(set(chosen))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "null" if value is None else str(value)


def as_number(text: str) -> float | None:
    """Convert a value to a number; None if it is not a number."""
    try:
        return float(text)
    except ValueError:
        return None
