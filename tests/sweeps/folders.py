"""Run folders as Hydra and `recorded` leave them, made up."""

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

CONFIG = {
    "ratio": [2, 4, 8],
    "seed": 0,
    "optimizer": {"lr": 1e-4, "betas": [0.9, 0.95]},
    "module": {"optimizer": "${optimizer}"},
    "beacon": {"window": 2048, "ratios": "${ratio}"},
    "objective": {"_target_": "beacon_lit.objectives.LanguageModeling"},
    "run_folder": "${hydra:runtime.output_dir}",
    "optimized_metric": None,
}
CHOICES = {"objective": "lm", "model": "smollm2", "hydra/launcher": "basic"}


def run_folder(
    folder: Path,
    config: dict[str, Any],
    overrides: list[str],
    record: dict[str, Any] | None,
    choices: dict[str, str] | None = None,
    command: str = "train",
) -> Path:
    """A run whose config differs from `CONFIG` by `config`."""
    hydra = folder / ".hydra"
    hydra.mkdir(parents=True)
    OmegaConf.save(OmegaConf.merge(CONFIG, config), hydra / "config.yaml")
    OmegaConf.save(OmegaConf.create(overrides), hydra / "overrides.yaml")
    runtime = {"runtime": {"choices": {**CHOICES, **(choices or {})}}, "job": {"config_name": command}}
    OmegaConf.save(OmegaConf.create({"hydra": runtime}), hydra / "hydra.yaml")
    if record is not None:
        (folder / "run.json").write_text(json.dumps(record))
    return folder


def done(**metrics: float) -> dict[str, Any]:
    """The record of a run that is."""
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return {"state": "done", "seconds": 83.4, "metrics": named}
