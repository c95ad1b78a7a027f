"""Train beacons. `python train.py --help` explains; the settings are in conf/train.yaml."""

import logging
import sys
from pathlib import Path
from typing import Any

import hydra
import lightning
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from beacon_lit import BeaconLM, resolvers
from beacon_lit.arch.checkpoint import Shard, load_beacons
from beacon_lit.callbacks import SaveAtEnd
from beacon_lit.evaluation.results import flat_metrics
from beacon_lit.options import check_options
from beacon_lit.record import optimized, recorded
from beacon_lit.runs import (
    check_length,
    check_objective,
    check_start,
    check_started,
    find_beacons,
    link_latest,
    quiet,
)

log = logging.getLogger(__name__)
resolvers.register()


@recorded
def train(cfg: DictConfig) -> dict[str, float]:
    """Run what `cfg` describes (conf/train.yaml) and return its last metrics by name."""
    folder = Path(cfg.run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    lightning.seed_everything(cfg.seed, verbose=False)
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    # A bad setting ends here, before anything is loaded.
    _, objective, tuning = map(instantiate, (cfg.beacon, cfg.objective, cfg.tuning))
    check_start(cfg.init_from, tuning)
    check_objective(objective, tuning)

    tokenizer = instantiate(cfg.model.tokenizer)
    data = instantiate(cfg.data, tokenizer=tokenizer)

    def build(shard: Shard | None) -> BeaconLM:
        lm = instantiate(cfg.model.backbone, shard=shard)
        check_length("data.max_length", data.rule.max_length, lm)
        if cfg.init_from is not None:
            load_beacons(lm, find_beacons(cfg.init_from))
        return lm

    module = instantiate(cfg.module, build=build, tokenizer=data.tokenizer)
    loggers = [instantiate(logger) for logger in (cfg.get("logger") or {}).values()]
    chosen = {name: node for name, node in (cfg.get("callbacks") or {}).items() if loggers or name != "learning_rate"}
    callbacks = [*(instantiate(node) for node in chosen.values()), SaveAtEnd(folder)]
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers)
    check_started(trainer.world_size, "trainer.")
    if trainer.is_global_zero:
        link_latest(folder)
    trainer.fit(module, data, ckpt_path=cfg.resume)
    if trainer.is_global_zero:
        log.info(f"beacons: {folder / 'beacons'}; figures and metrics: {folder}")
    return _metrics(trainer)


def _metrics(trainer: Any) -> dict[str, float]:
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for callback in trainer.callbacks:
        metrics |= flat_metrics(getattr(callback, "last", {}))
    return metrics


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """The command line."""
    quiet()
    return optimized(train(cfg), cfg.optimized_metric)


if __name__ == "__main__":
    check_options(sys.argv[1:], Path(__file__).parent / "conf")
    main()
