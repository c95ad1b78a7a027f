"""Sweeps through the real command."""

import csv
import json
import math
import os
import stat
import subprocess
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from beacon_lit.callbacks.preemption import Preempted
from beacon_lit.record import optimized, recorded
from beacon_lit.sweeps import SweepCallback
from tests.configs import ROOT, small_backbone, small_run, small_text
from tests.warm import warm_python


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of a run of one step."""
    folder = tmp_path_factory.mktemp("inputs")
    backbone, text = small_backbone(folder / "backbone"), small_text(folder / "text.jsonl", documents=3)
    left_out = ("run_folder=", "ratio=", "trainer.max_steps=")
    own = [override for override in small_run(backbone, text, folder) if not override.startswith(left_out)]
    return [*own, "trainer.max_steps=1", "~callbacks.evaluation", "logger=none"]


def sweep(folder: Path, settings: list[str], *more: str, **environment: str) -> subprocess.CompletedProcess:
    command = [warm_python(), ROOT / "train.py", "-m", *settings, f"hydra.sweep.dir={folder}/sweep", *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep" / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_failed_run_does_not_stop_the_others(settings: list[str], tmp_path: Path) -> None:
    result = sweep(tmp_path, settings, "ratio=2,3,4", "objective=distill,lm")
    assert result.returncode == 1
    found = rows(tmp_path)
    assert [(row["ratio"], row["objective"]) for row in found] == [
        (ratio, objective) for ratio in "234" for objective in ("distill", "lm")
    ]
    assert [row["state"] for row in found] == ["done", "done", "failed", "failed", "done", "done"]
    for number, row in enumerate(found):
        folder = tmp_path / "sweep" / str(number)
        if row["state"] == "done":
            beacons = json.loads((folder / "beacons" / "beacon_config.json").read_text())
            assert beacons["beacon"]["ratios"] == [int(row["ratio"])] and float(row["train/loss"]) > 0
        else:
            assert row["error"] == "ValueError: ratios=3 is not allowed; allowed: divisors of window=32"
            assert "Traceback" in (folder / "train.log").read_text()
            assert f"{number} failed: ValueError: ratios=3" in result.stdout
    assert {"summary.md", "summary.png"} <= {file.name for file in (tmp_path / "sweep").iterdir()}
    header, _, first, *_ = (tmp_path / "sweep" / "summary.md").read_text().splitlines()
    shown = dict(zip(header.split(" | "), first.split(" | "), strict=True))["tokens/s"]
    speed = float(shown.strip("*").replace(",", ""))  # bold in the best run
    assert speed == pytest.approx(float(found[0]["train/tokens_per_second"]), abs=0.5)


def test_a_search_goes_on_after_failed_trials_and_finds_the_best(settings: list[str], tmp_path: Path) -> None:
    search = ["sweep=optuna", "hydra.sweeper.n_trials=5", "ratio=choice(2,3)", "optimizer.lr=interval(1e-3,1e-2)"]
    search += ["objective=distill", "hydra.sweeper.direction=maximize", "schedule.num_warmup_steps=0"]
    result = sweep(tmp_path, settings, *search)
    found = rows(tmp_path)
    assert len(found) == 5 and {row["state"] for row in found} == {"done", "failed"} and result.returncode == 1
    losses = {row["optimizer.lr"]: float(row["val/loss"]) for row in found if row["state"] == "done"}
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert best["best_value"] == max(losses.values()) == losses[str(best["best_params"]["optimizer.lr"])]
    assert all(row["ratio"] == "3" for row in found if row["state"] == "failed") and len(set(losses.values())) > 1
    (number,) = [row["run"] for row in found if row["val/loss"] == str(best["best_value"])]
    assert f"best by val/loss: {number}" in result.stdout


def test_runs_in_processes_of_their_own(settings: list[str], tmp_path: Path) -> None:
    result = sweep(tmp_path, settings, "ratio=2", "hydra/launcher=submitit_local", "data.min_length=${times:16,2}")
    assert result.returncode == 0, result.stderr
    assert [row["state"] for row in rows(tmp_path)] == ["done"]
    assert list((tmp_path / "sweep" / ".submitit").glob("*/*.out"))


def test_what_slurm_is_asked_for(settings: list[str], tmp_path: Path) -> None:
    """On a cluster whose sbatch takes down what it gets, and refuses."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, does in {"srun": "true", "sbatch": f'cp "${{@: -1}}" {tmp_path}/script; exit 1'}.items():
        (tools / name).write_text(f"#!/bin/bash\n{does}\n")
        (tools / name).chmod(stat.S_IRWXU)
    asked = ["ratio=2,4", "hydra/launcher=slurm", "hydra.launcher.partition=long", "hydra.launcher.timeout_min=90"]
    result = sweep(tmp_path, settings, *asked, PATH=f"{tools}:{os.environ['PATH']}")
    assert result.returncode == 1
    lines = (tmp_path / "script").read_text().splitlines()
    for option in ("partition=long", "time=90", "gpus-per-node=1", "cpus-per-task=8", "mem=64GB", "array=0-1%2"):
        assert f"#SBATCH --{option}" in lines, option


@pytest.mark.parametrize(("group", "option"), [("sweeper", "optuna_search"), ("launcher", "slurm")])
def test_plugins_that_are_not_installed_are_named(
    group: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = OmegaConf.load(ROOT / "conf" / "hydra" / group / f"{option}.yaml")._target_
    assert get_class(target)
    basic = {name: {"_target_": "hydra._internal.hydra.Hydra"} for name in ("sweeper", "launcher")}
    chosen = {f"hydra/{name}": option if name == group else "basic" for name in basic}
    config = {**basic, group: {"_target_": target}, "runtime": {"choices": chosen}, "sweep": {"dir": str(tmp_path)}}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name.startswith("hydra_plugins.") else name)
    with pytest.raises(SystemExit, match=rf"hydra/{group}={option} needs .*beacon_lit\[sweeps\]"):
        SweepCallback().on_multirun_start(OmegaConf.create({"hydra": config}))


def test_a_run_records_what_becomes_of_it(tmp_path: Path) -> None:
    cfg, seen = OmegaConf.create({"run_folder": str(tmp_path / "run")}), []

    def told() -> dict:
        return json.loads((tmp_path / "run" / "run.json").read_text())

    @recorded
    def job(cfg: DictConfig) -> dict[str, float]:
        """A job."""
        seen.append(told()["state"])
        if cfg.get("fails"):
            raise RuntimeError("wrapped") from ValueError("window=7")
        if cfg.get("stopped"):
            raise {"SIGTERM": Preempted(143), "Ctrl-C": KeyboardInterrupt}[cfg.stopped]
        return {"train/loss": 1.5}

    assert job.__doc__ == "A job." and job(cfg) == {"train/loss": 1.5}
    assert told()["state"] == "done" and told()["metrics"] == {"train/loss": 1.5} and told()["seconds"] >= 0
    with pytest.raises(RuntimeError, match="wrapped"):
        job(OmegaConf.merge(cfg, {"fails": True}))
    assert told()["state"] == "failed" and "metrics" not in told()
    assert told()["error"] == "RuntimeError: wrapped (cause: ValueError: window=7)"
    for how, error in {"SIGTERM": Preempted, "Ctrl-C": KeyboardInterrupt}.items():
        with pytest.raises(error):
            job(OmegaConf.merge(cfg, {"stopped": how}))
        assert told()["state"] == "stopped" and told()["seconds"] >= 0 and "error" not in told()
    assert seen == ["running"] * 4


def test_what_a_search_optimizes() -> None:
    metrics = {"val/loss": 2.0, "train/loss": math.nan, "passkey/ratio_2/length_300": 1.0}
    assert optimized(metrics, None) is None and optimized(metrics, "val/loss") == 2.0
    with pytest.raises(SystemExit, match="optimized_metric=loss is not allowed; allowed: train/loss, val/loss, and"):
        optimized(metrics, "loss")
    with pytest.raises(ValueError, match="optimized_metric=train/loss is nan"):
        optimized(metrics, "train/loss")
