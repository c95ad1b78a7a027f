"""Evaluate beacons. `python evaluate.py --help` explains; the settings are in conf/evaluate.yaml."""

import logging
from pathlib import Path

import hydra
import lightning
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from beacon_lit import resolvers
from beacon_lit.arch.config import as_tuple
from beacon_lit.evaluation.modes import DENSE, WINDOW_ONLY, choose_modes
from beacon_lit.evaluation.runner import flat_metrics, make_figures, run, save
from beacon_lit.evaluation.table import score_table
from beacon_lit.record import recorded
from beacon_lit.runs import quiet, subject

log = logging.getLogger(__name__)
resolvers.register()


@recorded
def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Run what `cfg` describes (conf/evaluate.yaml) and return its metrics by name."""
    folder = Path(cfg.run_folder)
    lightning.seed_everything(cfg.seed, verbose=False)
    lm, tokenizer = subject(cfg)
    ratios = as_tuple(lm.beacon.ratios if cfg.ratio is None else cfg.ratio)
    modes = choose_modes(lm, [DENSE] * cfg.dense + [WINDOW_ONLY] * cfg.window_only + [*ratios])
    cfg.beacon.update(lm.beacon.to_dict())
    tasks = {name: instantiate(task, _convert_="all") for name, task in cfg.task.items()}
    documents = instantiate(cfg.data, tokenizer=tokenizer).validation_documents()

    results = run(tasks, lm, tokenizer, modes, documents)
    save(folder, results, make_figures(tasks, {"": results}))
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    Console().print(score_table({"": results}, title=str(cfg.checkpoint or cfg.model.path)))
    log.info(f"written to {folder}")
    return flat_metrics(results)


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """The command line."""
    quiet()
    evaluate(cfg)


if __name__ == "__main__":
    main()
