"""Runs: which model, what goes into their folders, which is the latest; a terminal without other people's chatter."""

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from transformers import AutoTokenizer
from transformers.utils import CONFIG_NAME
from transformers.utils.logging import disable_progress_bar

from beacon_lit import BeaconLM
from beacon_lit.arch import longest
from beacon_lit.arch.checkpoint.beacons import trains_backbone
from beacon_lit.objectives import Distillation, Objective
from beacon_lit.tuning import Tuning


def find_beacons(path: str | Path) -> Path:
    """What `BeaconLM.from_pretrained` reads: a run folder stands for the `beacons` folder in it.

    Raises:
        ValueError: a run folder without beacons in it.
    """
    path = Path(path)
    if (path / "beacons" / CONFIG_NAME).is_file():
        return path / "beacons"
    if (path / "config.yaml").is_file():
        raise ValueError(f"{path} is the folder of a run that has not finished: no beacons/{CONFIG_NAME} in it")
    return path


def subject(cfg: DictConfig, device: torch.device | None = None) -> tuple[BeaconLM, Any]:
    """The model that `checkpoint` or else `model` names, on a device (default: the best there is), and its tokenizer.

    `cfg.model.path` becomes the backbone's. Raises what `find_beacons` and `BeaconLM.from_pretrained` raise.
    """
    if cfg.checkpoint is None:
        lm, tokenizer = instantiate(cfg.model.backbone), instantiate(cfg.model.tokenizer)
    else:
        options = {name: cfg.model.backbone.get(name) for name in ("attn", "dtype") if name in cfg.model.backbone}
        options |= {"backbone": cfg.backbone, "allow_other_backbone": cfg.allow_other_backbone}
        lm = BeaconLM.from_pretrained(str(find_beacons(cfg.checkpoint)), **options)
        cfg.model.path = lm.config._name_or_path
        tokenizer = AutoTokenizer.from_pretrained(lm.config._name_or_path)
    return lm.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), tokenizer


def of_earlier_run(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config of the run that `resume` or `rescore` name, with their values; without them `cfg` itself.

    Args:
        cfg: what was composed.
        overrides: what the command line set. Beside these two it may set where to run, and with `rescore` a task's
            settings that only grading reads (`Task.graded_by`, or another class), which then count.

    Raises:
        ValueError: both, a folder without a config, or another setting: it would not be that run any more.
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
    """Refuse a `resume` or `rescore` that names no run, before Hydra makes the folder.

    Args:
        overrides: the command line.

    Raises:
        SystemExit: naming the setting, its value and what is allowed.
    """
    chosen = [entry for entry in overrides if entry.lstrip("+").startswith(("resume=", "rescore="))]
    for override in OverridesParser.create().parse_overrides(chosen):
        if not override.is_sweep_override() and override.value() is not None:
            try:
                _run_folder(override.key_or_group, override.value())
            except ValueError as error:
                raise SystemExit(f"error: {error}") from None


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Write `config.yaml`, resolved, into a run's folder, which is made if need be. A kill leaves the old one or the
    new one."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".config.yaml.{os.getpid()}"
    OmegaConf.save(cfg, partial, resolve=True)
    partial.replace(folder / "config.yaml")


def _run_folder(name: str, path: Any) -> Path:
    """The folder of a run that the setting `name` gives."""
    folder = Path(str(path))
    if not (folder / "config.yaml").is_file():
        what = "there is no config.yaml in it" if folder.is_dir() else "no such folder"
        raise ValueError(f"{name}={path}: {what}; allowed: the folder of an evaluation")
    return folder


def _check_graded_by(key: str, tasks: DictConfig, folder: Path) -> None:
    """ValueError if predictions would be others with another value of a task's setting `task.NAME.SETTING`: the config
    beside them would not be theirs any more."""
    _, name, *setting = key.split(".")
    task: Any = get_class(tasks[name]._target_)
    allowed = ("_target_", *task.graded_by)
    if not setting or setting[0] not in allowed:
        names = ", ".join(f"task.{name}.{setting}" for setting in allowed)
        raise ValueError(f"{key} is not allowed with rescore={folder}, predictions depend on it; allowed: {names}")


def check_started(processes: int, prefix: str = "") -> None:
    """ValueError if torchrun or srun has started more processes than `devices` and `num_nodes` make: each would take
    itself for the only one, and write over the files of the others. (Lightning refuses fewer.)

    Args:
        processes: that Lightning knows of.
        prefix: of the two settings' names.
    """
    name = "WORLD_SIZE" if "TORCHELASTIC_RUN_ID" in os.environ else "SLURM_STEP_NUM_TASKS"
    started = int(os.environ.get(name, processes))
    if started > processes:
        raise ValueError(
            f"{prefix}devices x {prefix}num_nodes = {processes} is not allowed where {started} processes were started; "
            f"allowed: {started}"
        )


def check_start(init_from: str | None, tuning: Tuning) -> None:
    """ValueError if training starts from a trained backbone that `tuning` does not train on, and so does not save."""
    if init_from is not None and not tuning.trains_backbone and trains_backbone(init_from):
        raise ValueError(
            f"init_from={init_from} has a trained backbone; allowed: with tuning=full. Otherwise make it a whole "
            f"model, for model.path=FOLDER: python -m beacon_lit.convert {init_from} FOLDER --to full"
        )


def check_objective(objective: Objective, tuning: Tuning) -> None:
    """ValueError if the backbone is to be trained and, without gradients, a teacher."""
    if tuning.trains_backbone and isinstance(objective, Distillation):
        raise ValueError(
            "objective=distill is not allowed with tuning=full, its teacher would change with the backbone; "
            "allowed: tuning=beacons, tuning=lora"
        )


def read_text(name: str, path: str | Path) -> str:
    """The text of a file in UTF-8 that the setting `name` gives.

    Raises:
        ValueError: it is missing, empty or not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{name}={path}: no such file; allowed: a text file in UTF-8")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}={path} is not UTF-8 (byte {error.start}); allowed: a text file in UTF-8") from error
    if not text.strip():
        raise ValueError(f"{name}={path} is empty; allowed: a file with text in it")
    return text


def check_length(name: str, length: int, lm: BeaconLM) -> None:
    """ValueError if texts of `length` tokens are beyond the backbone's positions even at the largest ratio."""
    limit = longest(lm.beacon, max(lm.beacon.ratios), lm.positions)
    if length > limit:
        raise ValueError(
            f"{name}={length} is not allowed; allowed: at most {limit} tokens, the longest that "
            f"{lm.positions} position slots hold at ratio {max(lm.beacon.ratios)}"
        )


def link_latest(folder: Path) -> None:
    """Point `latest`, beside the dated folders of runs (outputs/DATE/TIME), to `folder`."""
    root = folder.parent.parent
    link = root / "latest"
    if root.name != "outputs" or (link.exists() and not link.is_symlink()):
        return
    temporary = root / f".latest-{os.getpid()}"
    temporary.symlink_to(os.path.relpath(folder, root))
    temporary.replace(link)


def quiet() -> None:
    """Silence notices that tell a user of this project nothing."""
    disable_progress_bar()
    lightnings = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda")
    for name in (*lightnings, "httpx", "compilers.C.base"):  # the last: DeepSpeed tries the C compiler
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*tensorboardX.*",
        ".*LeafSpec.*",
        ".*Checkpoint directory .* exists.*",
        ".*lr_scheduler.step.*",
        ".*overridden `transfer_batch_to_device` in `LightningModule`.*",
        ".*FSDP2-wrapped module .* returned a view tensor.*",  # nobody writes into losses and logits
        ".*`torch.distributed.* is deprecated.*",  # by DeepSpeed
    ):
        warnings.filterwarnings("ignore", message=message)
