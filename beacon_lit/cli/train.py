"""Train beacons: `beacon-train`, or `python train.py` in a checkout; settings: conf/train.yaml."""

import logging
import os
from pathlib import Path
from typing import Any

import lightning
from hydra.utils import instantiate
from lightning.pytorch.callbacks import LambdaCallback
from omegaconf import DictConfig

from beacon_lit import BeaconLM
from beacon_lit.arch.checkpoint import Sharder, load_beacons
from beacon_lit.callbacks import SaveAtEnd
from beacon_lit.cli.checks import (
    check_accelerator,
    check_folders,
    check_length,
    check_monitors,
    check_objective,
    check_optimizer,
    check_start,
    check_started,
    check_validation,
    leave_out_unchosen,
    members,
)
from beacon_lit.cli.command import command
from beacon_lit.cli.resumed import with_settings_of_resumed
from beacon_lit.evaluation.results import flat_metrics
from beacon_lit.record import is_first, optimized, recorded
from beacon_lit.runs import (
    check_backbone,
    check_tokenizer,
    find_beacons,
    find_checkpoint,
    how_to_continue,
    link_latest,
    naming,
    save_config,
)
from beacon_lit.tokenizer_state import saved_state

log = logging.getLogger(__name__)


@recorded
def train(cfg: DictConfig) -> dict[str, float]:
    """Train what `cfg` (conf/train.yaml) describes, and return the last metrics.

    Returns:
        values by name, such as "train/loss" and "perplexity/ratio_4".

    Raises:
        ValueError: a setting is wrong; the message names it and says what is allowed.
    """
    folder = Path(cfg.run_folder)
    lightning.seed_everything(cfg.seed, verbose=False)
    _check(cfg)
    if is_first(os.environ):
        save_config(cfg, folder)

    with naming("model.path"):
        tokenizer = instantiate(cfg.model.tokenizer)
    data = instantiate(cfg.data, tokenizer=tokenizer)
    if cfg.init_from is not None:
        state = saved_state(find_beacons(cfg.init_from))
        if state is not None and state["chat_template"] != data.tokenizer.chat_template:
            log.warning(f"data.template={cfg.data.template}: init_from={cfg.init_from} was trained in another template")

    def build(shard: Sharder | None) -> BeaconLM:
        with naming("model.path"):
            lm = instantiate(cfg.model.backbone, shard=shard)
        check_length("data.max_length", data.rule.max_length, lm)
        check_tokenizer(data.tokenizer, lm)
        if cfg.init_from is not None:
            load_beacons(lm, find_beacons(cfg.init_from))
        return lm

    module = instantiate(cfg.module, build=build, tokenizer=data.tokenizer)
    check_optimizer(module.optimizer, module.schedule, cfg.trainer.max_steps)
    loggers = [instantiate(logger) for logger in members(cfg.get("logger")).values()]
    chosen = members(cfg.get("callbacks"))
    for name in _left_out(cfg.trainer, bool(loggers)):
        chosen.pop(name, None)
    # The link moves when training starts, so that a run refused before then leaves the link to the previous run.
    link = LambdaCallback(on_train_start=lambda trainer, _: link_latest(folder) if trainer.is_global_zero else None)
    callbacks = [link, *(instantiate(node) for node in chosen.values()), SaveAtEnd(folder)]
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers)
    check_started(trainer.world_size, "trainer.")
    try:
        trainer.fit(module, data, ckpt_path=cfg.resume)
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C, or a signal
        if trainer.is_global_zero:
            log.info(how_to_continue(folder))
        raise
    if trainer.is_global_zero:
        log.info(f"beacons: {folder / 'beacons'}; figures and metrics: {folder}")
    return _metrics(trainer)


def _check(cfg: DictConfig) -> None:
    """Refuse wrong settings before anything is loaded, and set links and folders to the files that they stand for."""
    leave_out_unchosen(cfg, "task", "callbacks", "logger")
    if cfg.init_from is not None and cfg.resume is not None:
        raise ValueError(f"init_from={cfg.init_from} is not allowed with resume={cfg.resume}; allowed: one of them")
    if cfg.resume is not None:
        cfg.resume = str(find_checkpoint(cfg.resume).resolve())
    if cfg.init_from is not None and Path(cfg.init_from).expanduser().exists():
        cfg.init_from = str(Path(cfg.init_from).expanduser().resolve())
    check_backbone(cfg.model.path, "init_from")
    _, objective, tuning = map(instantiate, (cfg.beacon, cfg.objective, cfg.tuning))
    check_start(cfg.init_from, tuning)
    check_objective(objective, tuning)
    check_validation(cfg)
    check_monitors(cfg)
    check_accelerator(cfg.trainer.accelerator, cfg.trainer.devices, "trainer.")
    check_folders(cfg)


def _left_out(trainer: DictConfig, logs: bool) -> list[str]:
    """Return the callbacks that Lightning refuses with these settings of the trainer."""
    without = {"learning_rate": logs, "progress": trainer.get("enable_progress_bar")}
    without |= dict.fromkeys(("checkpoint", "best"), trainer.get("enable_checkpointing"))
    return [name for name, wanted in without.items() if wanted is False]


def _metrics(trainer: Any) -> dict[str, float]:
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for callback in trainer.callbacks:
        metrics |= flat_metrics(getattr(callback, "last", {}))
    return metrics


@command("train", completed=with_settings_of_resumed)
def main(cfg: DictConfig) -> float | None:
    """Run the command line; a search over settings reads the metric that is returned."""
    return optimized(train(cfg), cfg.optimized_metric)


if __name__ == "__main__":
    main()
