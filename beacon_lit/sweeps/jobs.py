"""Read the settings and results of runs from their folders."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from beacon_lit.record import DONE, RECORD_FILE, RUNNING, flat_settings

HYDRA = Path(".hydra", "config.yaml")
UNFINISHED = "unfinished"
SPEED = "ktok/s"  # of the progress bar; "train/tokens_per_second" for loggers
OWN = "own_ratio"  # in place of the number in the name of a metric, where runs have different ratios
_RATIO = re.compile(r"(.+/)(?:loss_)?ratio_(\d+)")
_LOWER = re.compile(r"loss|perplexity")  # metrics whose lower values are better


@dataclass(frozen=True)
class Job:
    """The settings and results of one run.

    Attributes:
        name: the run's folder, relative to the searched folder.
        state: "done", "failed", "stopped" (by a signal or Ctrl-C) or "unfinished" (running, or killed).
        choices: option by config group ("model": "qwen2").
        config: all settings by dotted name, with references such as `${ratio}` unresolved.
        given: names of the settings that were given on the command line or by the sweep.
        metrics: metrics by name.
        seconds: duration; None before the run has ended.
        error: why the run failed.
    """

    name: str
    state: str
    choices: dict[str, Any]
    config: dict[str, Any]
    given: frozenset[str]
    metrics: dict[str, float]
    seconds: float | None = None
    error: str | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """The last measured training speed, or None."""
        return self.metrics.get("train/tokens_per_second")


def find_jobs(folders: Sequence[Path]) -> list[Job]:
    """Return the runs in some folders, sorted by name; a folder is a run's own or has runs at any depth below it.

    Raises:
        ValueError: a folder without a run, or runs of several commands.
    """
    found: dict[Path, tuple[str, str]] = {}
    for folder in folders:
        runs = [file.parents[1] for file in sorted(folder.rglob(str(HYDRA)), key=_natural)]
        if not runs:
            raise ValueError(f"{folder} has no run in it; allowed: the folder of a run or of a sweep")
        for run in runs:
            name = run.relative_to(folder).as_posix() if run != folder else folder.name
            found.setdefault(run.resolve(), (name, _command(run)))
    commands = sorted({command for _, command in found.values()})
    if len(commands) > 1:
        raise ValueError(f"runs of {' and '.join(commands)} cannot be compared; allowed: runs of one command")
    return with_own_ratios([read_job(run, name) for run, (name, _) in found.items()])


def with_own_ratios(jobs: Sequence[Job]) -> list[Job]:
    """Add metrics at each run's own ratio, such as "perplexity/own_ratio", where no ratio is common to all runs.

    A run of several ratios counts with its largest.
    """
    ratios = [{int(match[2]) for name in job.metrics if (match := _RATIO.fullmatch(name))} for job in jobs]
    known = [own for own in ratios if own]
    if len(known) < 2 or set.intersection(*known):
        return [*jobs]
    return [
        replace(job, metrics=job.metrics | _at(max(own), job.metrics)) if own else job
        for job, own in zip(jobs, ratios, strict=True)
    ]


def _at(ratio: int, metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics at a ratio under names that runs of other ratios have as well."""
    return {
        name.removesuffix(f"ratio_{ratio}") + OWN: value
        for name, value in metrics.items()
        if (match := _RATIO.fullmatch(name)) and int(match[2]) == ratio
    }


def read_job(folder: Path, name: str) -> Job:
    """Read the run in `folder`."""
    hydra = folder / HYDRA.parent
    config: Any = OmegaConf.to_container(OmegaConf.load(hydra / "config.yaml"))
    overrides: Any = OmegaConf.to_container(OmegaConf.load(hydra / "overrides.yaml"))
    choices = OmegaConf.load(hydra / "hydra.yaml").hydra.runtime.choices
    own = config.get("run_folder") or ""
    record = (folder if "${" in own else Path(own)) / RECORD_FILE
    fields = json.loads(record.read_text()) if record.is_file() else {}
    state = fields.get("state", RUNNING)
    return Job(
        name=name,
        state=UNFINISHED if state == RUNNING else state,
        choices={group: choice for group, choice in choices.items() if not group.startswith("hydra/")},
        config=flat_settings(config),
        given=frozenset(override.lstrip("+~").partition("=")[0] for override in overrides),
        metrics=fields.get("metrics", {}),
        seconds=fields.get("seconds"),
        error=fields.get("error"),
    )


def default_metric(jobs: Sequence[Job]) -> str | None:
    """Choose the metric to compare by, or None: the runs' `optimized_metric`, else "val/loss", a perplexity, another
    result or "train/loss", whichever all finished runs have."""
    done = [job for job in jobs if job.state == DONE]
    asked = {job.config.get("optimized_metric") for job in jobs} - {None}
    if len(asked) == 1:
        return str(*asked)
    common = [name for name in headlines(done) if all(name in job.metrics for job in done)]
    results = [name for name in common if name != "train/loss"]
    order = ["val/loss", *filter(is_lower_better, results), *results, "train/loss"]
    return next((name for name in order if name in common), None)


def is_lower_better(metric: str) -> bool:
    """Whether lower values of a metric are better, by its name: of losses and perplexities."""
    return _LOWER.search(metric) is not None


def headlines(jobs: Sequence[Job]) -> list[str]:
    """Return the names of the metrics to show: results without details such as "perplexity/ratio_8/window_3", and for
    several runs only metrics that differ."""
    jobs = [job for job in jobs if job.metrics]
    names = dict.fromkeys(name for job in jobs for name in job.metrics)
    results = [name for name in names if name.count("/") == 1 and not name.startswith("train/") and name != SPEED]
    if any(name.endswith(OWN) for name in results):
        results = [name for name in results if not _RATIO.fullmatch(name)]
    short = ["train/loss"] * ("train/loss" in names) + results
    return [name for name in short if len(jobs) == 1 or len({job.metrics.get(name) for job in jobs}) > 1]


def finite(job: Job, metric: str | None) -> float | None:
    """Return a run's metric, or None if the metric is missing or non-finite."""
    value = job.metrics.get(metric) if metric is not None else None
    return value if value is not None and math.isfinite(value) else None


def _command(run: Path) -> str:
    return str(OmegaConf.load(run / HYDRA.parent / "hydra.yaml").hydra.job.config_name)


def _natural(file: Path) -> list[tuple[int, str]]:
    """Return a sort key that puts 10 after 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in file.parts]
