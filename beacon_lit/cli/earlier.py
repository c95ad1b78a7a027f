"""Resume or rescore an earlier evaluation: its config, with the few settings that may differ."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf


def of_earlier_run(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return the config of the earlier run that `resume` or `rescore` names, or `cfg` itself where neither is set.

    Args:
        cfg: the composed config.
        overrides: the settings of the command line. Besides `resume` and `rescore`, they may say where to run; with
            `rescore`, they may also change the settings of a task that only grading reads (`Task.graded_by`), and the
            class of the task (`_target_`).

    Returns:
        the earlier config, with the allowed settings of the command line.

    Raises:
        ValueError: both are set, the folder has no config, or another setting is given, which would make this a
            different run.
    """
    names = [name for name in ("resume", "rescore") if cfg[name] is not None]
    if not names:
        return cfg
    if len(names) > 1:
        raise ValueError(f"resume={cfg.resume} and rescore={cfg.rescore} are not allowed together; allowed: one")
    folder = _run_folder(names[0], cfg[names[0]])
    changed = [entry for entry in overrides if names[0] == "rescore" and entry.lstrip("+").startswith("task.")]
    free = (*names, "devices", "num_nodes", "accelerator", "hydra.")
    others = [entry for entry in overrides if entry not in changed and not entry.startswith(free)]
    if others:
        allowed = "where it runs (devices, num_nodes, accelerator)" if names == ["resume"] else "task.NAME.SETTING"
        raise ValueError(f"{' '.join(others)} is not allowed with {names[0]}={folder}; allowed: {allowed}")
    earlier = OmegaConf.load(folder / "config.yaml")
    where = {name: cfg[name] for name in ("resume", "rescore", "devices", "num_nodes", "accelerator")}
    merged = OmegaConf.merge(earlier, where, {"run_folder": str(folder)})
    parsed = OverridesParser.create().parse_overrides(changed)
    for override in parsed:
        key = override.key_or_group
        if key.split(".")[1] not in earlier.task:
            raise ValueError(f"{key} is not allowed with rescore={folder}; allowed tasks: {', '.join(earlier.task)}")
        OmegaConf.update(merged, key, override.value())
    for override in parsed:
        _check_graded_by(override.key_or_group, merged.task, folder)
    return cast(DictConfig, merged)


def check_earlier_run(overrides: Sequence[str]) -> None:
    """Refuse a `resume` or `rescore` that names no run, before Hydra creates the folder.

    Args:
        overrides: the command line.

    Raises:
        SystemExit: names the setting, its value and what is allowed.
    """
    for name, path in paths(overrides, "resume", "rescore"):
        try:
            _run_folder(name, path)
        except ValueError as error:
            raise SystemExit(f"error: {error}") from None


def paths(overrides: Sequence[str], *names: str) -> list[tuple[str, str]]:
    """Return the settings of these names on a command line, with their paths; nulls and sweeps are left out."""
    chosen = [entry for entry in overrides if entry.lstrip("+").partition("=")[0] in names]
    parsed = OverridesParser.create().parse_overrides(chosen)
    single = [override for override in parsed if not override.is_sweep_override() and override.value() is not None]
    return [(override.key_or_group, str(override.value())) for override in single]


def _run_folder(name: str, path: Any) -> Path:
    """Return the folder of the run that the setting `name` gives; ValueError if the folder holds no run."""
    folder = Path(str(path)).expanduser()
    if not (folder / "config.yaml").is_file():
        what = "there is no config.yaml in it" if folder.is_dir() else "no such folder"
        raise ValueError(f"{name}={path}: {what}; allowed: the folder of an evaluation")
    return folder


def _check_graded_by(key: str, tasks: DictConfig, folder: Path) -> None:
    """Refuse a setting `task.NAME.SETTING` on which predictions depend: the saved ones would not match the config."""
    _, name, *setting = key.split(".")
    task: Any = get_class(tasks[name]._target_)
    allowed = ("_target_", *task.graded_by)
    if not setting or setting[0] not in allowed:
        names = ", ".join(f"task.{name}.{setting}" for setting in allowed)
        raise ValueError(f"{key} is not allowed with rescore={folder}, predictions depend on it; allowed: {names}")
