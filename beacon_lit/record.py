"""What a run leaves about itself in its folder: `run.json`, from the first moment on."""

import json
import math
import shlex
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import wraps
from pathlib import Path
from time import perf_counter
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

RECORD_FILE = "run.json"
RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"
Job = Callable[[DictConfig], dict[str, float]]


def recorded(job: Job) -> Job:
    """Have a job that takes a config with a `run_folder` and returns metrics keep `run.json` there.

    Its fields: "state" ("running", "done", "failed", or "stopped" by a signal or Ctrl-C; a run that was killed stays
    "running"), "started", "seconds", "metrics", and "error" of a run that failed. Rank zero writes it.
    """

    @wraps(job)
    def run(cfg: DictConfig) -> dict[str, float]:
        file, start = Path(cfg.run_folder) / RECORD_FILE, perf_counter()
        fields: dict[str, Any] = {"state": RUNNING, "started": datetime.now().astimezone().isoformat("T", "seconds")}
        _write(file, fields)
        try:
            metrics = job(cfg)
        except Exception as error:
            fields |= {"state": FAILED, "error": _root(error)}
            raise
        except BaseException:  # what asks a program to end
            fields |= {"state": STOPPED}
            raise
        else:
            fields |= {"state": DONE, "metrics": metrics}
            return metrics
        finally:
            _write(file, {**fields, "seconds": perf_counter() - start})

    return run


def _root(error: BaseException) -> str:
    """What was wrong in the first place: Hydra wraps what a constructor says."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def command_line() -> str:
    """Return the command that started the job, such as "python evaluate.py ratio=4"; "" outside of a Hydra job."""
    if not HydraConfig.initialized():
        return ""
    job = HydraConfig.get()
    return shlex.join(["python", f"{job.job.name}.py", *job.overrides.task])


def flat_settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings of a nested config by dotted name; a list is one setting."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        below = isinstance(value, dict) and value
        flat |= flat_settings(value, f"{prefix}{name}.") if below else {f"{prefix}{name}": value}
    return flat


@rank_zero_only
def _write(file: Path, fields: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(fields, indent=2) + "\n")
    temporary.replace(file)


def optimized(metrics: dict[str, float], name: str | None) -> float | None:
    """What a search optimises: the metric of that name, None without a name.

    Raises:
        ValueError: it is not finite, which is this run's failure.
        SystemExit: there is none of that name, which would be every run's.
    """
    if name is None:
        return None
    if name not in metrics:
        there = ", ".join(sorted(metric for metric in metrics if metric.count("/") == 1))
        raise SystemExit(f"optimized_metric={name} is not allowed; allowed: {there}, and their details")
    if not math.isfinite(metrics[name]):
        raise ValueError(f"optimized_metric={name} is {metrics[name]} after this run; a search needs a finite number")
    return metrics[name]
