"""Check a sweep's plugins, log failed runs, and report the results: a callback for Hydra."""

import atexit
import importlib.util
import logging
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from beacon_lit.record import DONE
from beacon_lit.sweeps.jobs import find_jobs
from beacon_lit.sweeps.report import report

log = logging.getLogger(__name__)


class SweepCallback(Callback):
    """Finish a sweep even if runs fail, and end it with a table, and with exit code 1 unless all runs are done."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check that sweeper and launcher are installed; print the table when the process exits, however it ends."""
        for name in ("sweeper", "launcher"):
            _check_installed(f"hydra/{name}={config.hydra.runtime.choices[f'hydra/{name}']}", config.hydra[name])
        maximize = config.hydra.sweeper.get("direction") == "maximize"
        atexit.register(_report, Path(config.hydra.sweep.dir), maximize)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Log why a run of a sweep failed: Hydra reports only the first failure, after the sweep."""
        if config.hydra.mode == RunMode.MULTIRUN and job_return.status == JobStatus.FAILED:
            log.error("this run failed", exc_info=job_return._return_value)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit with code 1 if runs failed that the sweeper tolerates."""
        if any(job.state != DONE for job in find_jobs([Path(config.hydra.sweep.dir)])):
            raise SystemExit(1)


def _check_installed(choice: str, plugin: DictConfig) -> None:
    module = plugin._target_.rpartition(".")[0]
    try:
        missing = importlib.util.find_spec(module) is None
    except ModuleNotFoundError:
        missing = True
    if missing:
        raise SystemExit(f"{choice} needs {module}, which is not installed: pip install 'beacon_lit[sweeps]'")


def _report(folder: Path, maximize: bool) -> None:
    if any(folder.glob("*/.hydra")):
        report([folder], maximize=maximize)
