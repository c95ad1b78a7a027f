"""Record the state of a run in its folder, as `run.json`, from its start on."""

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

from beacon_lit.errors import own_error, sentence

RECORD_FILE = "run.json"
RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"
RunFunction = Callable[[DictConfig], dict[str, float]]


def recorded(function: RunFunction) -> RunFunction:
    """Decorate a function of a config with a `run_folder`, so that rank zero keeps `run.json` in that folder.

    The file has the fields "state" ("running", "done", "failed", or "stopped" by a signal or Ctrl-C; a killed run stays
    "running"), "started" and "seconds", the "metrics" of a finished run, and the "error" of a failed run.
    """

    @wraps(function)
    def run(cfg: DictConfig) -> dict[str, float]:
        file, start = Path(cfg.run_folder) / RECORD_FILE, perf_counter()
        fields: dict[str, Any] = {"state": RUNNING, "started": datetime.now().astimezone().isoformat("T", "seconds")}
        _write(file, fields)
        try:
            metrics = function(cfg)
        except Exception as error:
            fields |= {"state": FAILED, "error": _root(error)}
            raise
        except BaseException:  # KeyboardInterrupt, or a signal
            fields |= {"state": STOPPED}
            raise
        else:
            fields |= {"state": DONE, "metrics": metrics}
            return metrics
        finally:
            _write(file, {**fields, "seconds": perf_counter() - start})

    return run


def _root(error: BaseException) -> str:
    """Describe an error with its causes; Hydra's own error around a constructor's error is left out."""
    return f"{type(own_error(error)).__name__}: {sentence(error)}"


def command_line() -> str:
    """Return the command that started the job, such as "python evaluate.py ratio=4", or "" outside of a Hydra job."""
    if not HydraConfig.initialized():
        return ""
    job = HydraConfig.get()
    return shlex.join(["python", f"{job.job.name}.py", *job.overrides.task])


def flat_settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings of a nested config by dotted name; a list is one setting."""
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
    """Return the metric that a search over settings optimises, None without a name.

    Raises:
        ValueError: the metric is non-finite, which fails this run only.
        SystemExit: the metric does not exist, which would fail every run.
    """
    if name is None:
        return None
    if name not in metrics:
        available = ", ".join(sorted(metric for metric in metrics if metric.count("/") == 1))
        raise SystemExit(f"optimized_metric={name} is not allowed; allowed: {available}, and their details")
    if not math.isfinite(metrics[name]):
        raise ValueError(f"optimized_metric={name} is {metrics[name]} after this run; a search needs a finite number")
    return metrics[name]
