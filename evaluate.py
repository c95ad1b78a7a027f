"""Evaluate beacons. `python evaluate.py --help` explains; the settings are in conf/evaluate.yaml."""

import logging
from pathlib import Path

import hydra
import lightning
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from transformers import AutoTokenizer

from beacon_lit import BeaconLM, resolvers
from beacon_lit.arch.config import as_tuple
from beacon_lit.evaluation.modes import DENSE, WINDOW_ONLY, choose_modes
from beacon_lit.evaluation.runner import flat_metrics, make_figures, run, save
from beacon_lit.evaluation.table import score_table
from beacon_lit.runs import find_beacons, quiet

log = logging.getLogger(__name__)
resolvers.register()


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Run what `cfg` describes (conf/evaluate.yaml) and return its metrics by name."""
    folder = Path(cfg.run_folder)
    lightning.seed_everything(cfg.seed, verbose=False)
    lm, tokenizer = _subject(cfg)
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


def _subject(cfg: DictConfig) -> tuple:
    """The model, on the best device there is, and its tokenizer."""
    if cfg.checkpoint is None:
        lm, tokenizer = instantiate(cfg.model.backbone), instantiate(cfg.model.tokenizer)
    else:
        options = {name: cfg.model.backbone.get(name) for name in ("attn", "dtype") if name in cfg.model.backbone}
        options |= {"backbone": cfg.backbone, "allow_other_backbone": cfg.allow_other_backbone}
        lm = BeaconLM.from_pretrained(str(find_beacons(cfg.checkpoint)), **options)
        cfg.model.path = lm.config._name_or_path
        tokenizer = AutoTokenizer.from_pretrained(lm.config._name_or_path)
    return lm.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """The command line."""
    quiet()
    evaluate(cfg)


if __name__ == "__main__":
    main()
