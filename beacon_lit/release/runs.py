"""Read what a model card tells about runs: their settings, commands, dates and metrics."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from beacon_lit.record import DONE, RECORD_FILE
from beacon_lit.runs import find_beacons


@dataclass(frozen=True)
class Run:
    """A finished run of training or evaluation.

    Attributes:
        folder: its folder.
        config: its settings.
        command: its command line; "" if the run began in Python.
        date: the day of its start, YYYY-MM-DD.
        seconds: how long it took.
        metrics: its metrics by name, such as "perplexity/ratio_8" and "perplexity/ratio_8/window_3".
    """

    folder: Path
    config: DictConfig
    command: str
    date: str
    seconds: float
    metrics: dict[str, float]

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read a run's folder.

        Raises:
            ValueError: the folder is not that of a finished run.
        """
        try:
            record: dict[str, Any] = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
            config = OmegaConf.load(folder / "config.yaml")
        except OSError as error:
            raise ValueError(
                f"{folder} is not the folder of a run, without {Path(error.filename).name}; allowed: a folder that "
                f"train.py or evaluate.py has written"
            ) from error
        if record["state"] != DONE:
            raise ValueError(f"the run in {folder} is not finished, but {record['state']}; allowed: a finished run")
        assert isinstance(config, DictConfig)
        command, date = record.get("command", ""), record["started"][:10]
        return cls(folder, config, command, date, record["seconds"], record["metrics"])

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """The score of each task in each mode, such as scores["perplexity"]["ratio 8"], without details."""
        scores: dict[str, dict[str, float]] = {}
        for name, value in self.metrics.items():
            if name.count("/") == 1:
                task, mode = name.split("/")
                scores.setdefault(task, {})[mode.replace("_", " ")] = value
        return scores


def evaluations_of(run: Path, folders: Sequence[Path]) -> list[Run]:
    """Read evaluations of the beacons of the run in the folder `run`.

    Raises:
        ValueError: a folder is no finished evaluation, or evaluates another model.
    """
    evaluations = [Run.read(folder) for folder in folders]
    for evaluation in evaluations:
        evaluated = evaluation.config.get("checkpoint")
        if evaluated is None or find_beacons(evaluated).resolve() != find_beacons(run).resolve():
            what = evaluated or evaluation.config.get("model", {}).get("path", "a run of training")
            raise ValueError(f"evaluation={evaluation.folder} is of {what}; allowed: evaluations of {run}")
    return evaluations
