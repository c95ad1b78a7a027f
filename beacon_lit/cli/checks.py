"""Refuse settings that do not fit together, before anything slow happens."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, open_dict

from beacon_lit import BeaconLM
from beacon_lit.arch import longest
from beacon_lit.arch.checkpoint.beacons import trains_backbone
from beacon_lit.checks import check_writable
from beacon_lit.objectives import Objective
from beacon_lit.runs import FIXED
from beacon_lit.tuning import Tuning

log = logging.getLogger(__name__)


def check_started(processes: int, prefix: str = "") -> None:
    """Refuse more processes of torchrun or srun than `devices` times `num_nodes`.

    Each process would take itself for the only one and overwrite the files of the others. (Lightning refuses fewer.)

    Args:
        processes: the number of processes that Lightning expects.
        prefix: put before the names of the two settings, such as "trainer.".

    Raises:
        ValueError: more processes were started.
    """
    name = "WORLD_SIZE" if "TORCHELASTIC_RUN_ID" in os.environ else "SLURM_STEP_NUM_TASKS"
    started = int(os.environ.get(name, processes))
    if started > processes:
        raise ValueError(
            f"{prefix}devices x {prefix}num_nodes = {processes} is not allowed where {started} processes were started; "
            f"allowed: {started}"
        )


def check_start(init_from: str | None, tuning: Tuning) -> None:
    """Refuse to start from nothing, or from a trained backbone that `tuning` would not train, and so not save.

    Raises:
        ValueError: `init_from` does not exist, or has a trained backbone, and `tuning` trains none.
    """
    if init_from is not None and not Path(init_from).expanduser().exists():
        raise ValueError(f"init_from={init_from} does not exist; allowed: a run's folder or `beacons` folder, a .ckpt")
    if init_from is not None and not tuning.trains_backbone and trains_backbone(init_from):
        raise ValueError(
            f"init_from={init_from} has a trained backbone; allowed: with tuning=full. Otherwise convert it to a "
            f"whole model, for model.path=FOLDER: beacon-convert {init_from} FOLDER --to full"
        )


def check_objective(objective: Objective, tuning: Tuning) -> None:
    """Refuse to train the backbone while the objective uses the same backbone as its fixed teacher.

    Raises:
        ValueError: a distillation objective, and a tuning that trains the backbone.
    """
    if tuning.trains_backbone and getattr(objective, "teacher", None) is not None:
        raise ValueError(
            f"objective={type(objective).__name__} is not allowed with tuning=full: its teacher would change with the "
            f"backbone; allowed: tuning=beacons, tuning=lora"
        )


def check_length(name: str, length: int, lm: BeaconLM) -> None:
    """Refuse texts that exceed the backbone's positions even at the largest ratio.

    Args:
        name: the setting that gives the length.
        length: tokens of the longest text.
        lm: the model, with its ratios and positions.

    Raises:
        ValueError: `length` is too large; the message gives the largest length.
    """
    limit = longest(lm.beacon, max(lm.beacon.ratios), lm.positions)
    if length > limit:
        raise ValueError(
            f"{name}={length} is not allowed; allowed: at most {limit} tokens, the longest that "
            f"{lm.positions} position slots hold at ratio {max(lm.beacon.ratios)}"
        )


def check_trained(overrides: Sequence[str]) -> None:
    """Refuse settings that would have no effect.

    These are, with a checkpoint, settings of the model that the checkpoint fixes, and without one, those of its
    backbone.

    Args:
        overrides: the command line.

    Raises:
        SystemExit: names the setting and what to use instead.
    """
    given = dict(entry.lstrip("+").partition("=")[::2] for entry in overrides)
    if given.get("checkpoint", "null") == "null":
        for name in ("backbone", "allow_other_backbone"):
            if given.get(name, "null").lower() not in ("null", "false"):
                raise SystemExit(
                    f"error: {name}={given[name]} is not allowed without checkpoint: it is of a checkpoint"
                )
        return
    for name in given:
        if name == "beacon" or name.startswith("beacon."):
            raise SystemExit(
                f"error: {name}={given[name]} is not allowed with checkpoint: trained beacons have their own"
            )
        of_backbone = name.startswith("model.backbone.") and name.split(".")[2] in FIXED
        if of_backbone or name in ("model", "model.path") or name.startswith("model.tokenizer"):
            raise SystemExit(
                f"error: {name}={given[name]} is not allowed with checkpoint, which has its own; allowed: "
                "backbone=PATH, if its backbone has moved"
            )


def check_validation(cfg: DictConfig) -> None:
    """Refuse settings of validation without the settings and the data that validation needs.

    Args:
        cfg: the config of training, with `trainer`, `data` and `optimized_metric`.

    Raises:
        ValueError: validation is asked for, and would never happen.
    """
    trainer = cfg.trainer
    often = [
        f"trainer.{name}={trainer[name]}"
        for name in ("val_check_interval", "check_val_every_n_epoch")
        if trainer.get(name) is not None
    ]
    limit = f"trainer.limit_val_batches={trainer.get('limit_val_batches')}"
    if not trainer.get("limit_val_batches"):
        if often:
            raise ValueError(f"{limit} is not allowed with {often[0]}: nothing would be validated; allowed: above 0")
        if str(cfg.get("optimized_metric")).startswith("val/"):
            raise ValueError(f"optimized_metric={cfg.optimized_metric} needs trainer.val_check_interval")
        return
    if not often:
        raise ValueError(f"{limit} needs trainer.val_check_interval: batches between two validations")
    if not cfg.data.validation:
        raise ValueError(f"{often[0]} needs validation data; allowed: data.validation with at least one source")
    interval, steps = trainer.val_check_interval, trainer.max_steps * trainer.accumulate_grad_batches
    if isinstance(interval, int) and 0 < steps < interval:
        raise ValueError(f"{often[0]} is not allowed: training ends after {steps} batches; allowed: at most {steps}")


def check_monitors(cfg: DictConfig) -> None:
    """Refuse a metric of the evaluation where the evaluation is switched off.

    Args:
        cfg: the config of training, with `callbacks`.

    Raises:
        ValueError: names the setting.
    """
    callbacks = members(cfg.get("callbacks"))
    monitors = {f"callbacks.{name}.monitor": str(node.get("monitor")) for name, node in callbacks.items()}
    for setting, metric in monitors.items():
        if metric.startswith(("eval/", "more_eval/")) and "evaluation" not in callbacks:
            raise ValueError(f"{setting}={metric} needs callbacks.evaluation, which is switched off")


def check_accelerator(accelerator: str, devices: Any, prefix: str = "") -> None:
    """Refuse GPUs that this machine does not have, in one sentence.

    Args:
        accelerator: "auto", "cpu", "gpu", "cuda" or another one of Lightning's.
        devices: number of devices of this machine, -1 for all.
        prefix: put before the names of the two settings, such as "trainer.".

    Raises:
        ValueError: no GPU, or fewer than `devices`.
    """
    if accelerator not in ("gpu", "cuda") or torch.backends.mps.is_available():
        return
    found = torch.cuda.device_count()
    if not found:
        raise ValueError(f"{prefix}accelerator={accelerator}: PyTorch finds no GPU here; allowed: cpu, auto")
    if isinstance(devices, int) and devices > found:
        raise ValueError(f"{prefix}devices={devices} is not allowed: this machine has {found}; allowed: 1 to {found}")


def check_folders(cfg: DictConfig) -> None:
    """Refuse folders of callbacks, loggers and the cache that cannot be written to, before hours of work.

    Args:
        cfg: the config of training.

    Raises:
        ValueError: names the setting.
    """
    if cfg.data.get("cache") is not None:
        check_writable("data.cache", cfg.data.cache)
    for group in ("callbacks", "logger"):
        for name, node in members(cfg.get(group)).items():
            for setting in ("dirpath", "folder", "save_dir"):
                if node.get(setting) is not None:
                    check_writable(f"{group}.{name}.{setting}", node[setting])


def check_optimizer(optimizer: Callable, schedule: Callable | None, steps: int) -> None:
    """Refuse arguments that an optimizer or its schedule does not have, by making both for a single number.

    Raises:
        ValueError: the message has the arguments, and the message of the optimizer or the schedule.
    """
    try:
        made = optimizer([{"params": [torch.nn.Parameter(torch.zeros(1))]}])
        if schedule is not None:
            schedule(optimizer=made, num_training_steps=max(steps, 1))
    except (TypeError, ValueError, KeyError) as error:
        given = {
            name: getattr(value, "keywords", {}) for name, value in (("optimizer", optimizer), ("schedule", schedule))
        }
        settings = [f"{group}.{name}={value}" for group, values in given.items() for name, value in values.items()]
        raise ValueError(f"optimizer or schedule: {error}; given: {', '.join(settings)}") from error


def leave_out_unchosen(cfg: DictConfig, *groups: str) -> None:
    """Leave out settings of members that a group does not have, and say so.

    An experiment changes settings of its own tasks, of which `task=[perplexity]` on the command line keeps one.
    """
    for group in groups:
        for name, node in members(cfg.get(group)).items():
            if isinstance(node, DictConfig) and "_target_" not in node:
                log.info(f"{group}.{name} is left out, though it has settings here: {group}=[...] does not choose it")
                with open_dict(cfg):
                    del cfg[group][name]


def members(group: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the members of a config group that are not switched off by null."""
    return {name: node for name, node in (group or {}).items() if node is not None}
