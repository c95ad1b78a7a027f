"""Record the state of a run in its folder, as `run.json`, from its start on."""

import fcntl
import json
import math
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from pathlib import Path
from time import perf_counter
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from beacon_lit.checks import check_writable
from beacon_lit.errors import own_error, sentence
from beacon_lit.files import remove_partials, write_text

RECORD_FILE = "run.json"
LOCK_FILE = ".lock"
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")  # of torchrun, Lightning's launcher and srun
RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"
RunFunction = Callable[[DictConfig], dict[str, float]]


def recorded(function: RunFunction) -> RunFunction:
    """Decorate a function of a config with a `run_folder`, so that rank zero keeps `run.json` in that folder.

    No other process can run in the folder meanwhile.

    The file has the fields "state" ("running", "done", "failed", or "stopped" by a signal or Ctrl-C; a killed run stays
    "running"), "command", "started" and "seconds", the "metrics" of a finished run, and the "error" of a failed run.
    """

    @wraps(function)
    def run(cfg: DictConfig) -> dict[str, float]:
        if not is_first(os.environ):
            return function(cfg)
        file, start = Path(cfg.run_folder) / RECORD_FILE, perf_counter()
        fields: dict[str, Any] = {"state": RUNNING, "command": command_line()}
        fields["started"] = datetime.now().astimezone().isoformat("T", "seconds")
        with reserved(file.parent):
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


def is_first(environment: Mapping[str, str]) -> bool:
    """Whether a process with these environment variables is the only one of a run, or rank zero."""
    return not any(int(environment.get(name) or 0) for name in RANKS)


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Create the folder if necessary, and keep other processes out of the folder within the block.

    Temporary files that a killed run left behind are deleted.

    Raises:
        ValueError: another process runs in the folder, or nothing can be written to the folder.
    """
    check_writable("run_folder", folder)
    with (folder / LOCK_FILE).open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise ValueError(f"run_folder={folder} is the folder of a run in progress; allowed: another one") from None
        except OSError:  # a file system without locks
            pass
        else:
            remove_partials(folder)
        yield


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


def _write(file: Path, fields: dict[str, Any]) -> None:
    write_text(file, json.dumps(fields, indent=2) + "\n")


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
