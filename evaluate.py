"""Evaluate beacons. `python evaluate.py --help` explains; the settings are in conf/evaluate.yaml."""

import logging
import sys
from pathlib import Path
from typing import cast

import hydra
import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from beacon_lit import resolvers
from beacon_lit.arch.config import as_tuple
from beacon_lit.evaluation.journal import Journal
from beacon_lit.evaluation.modes import DENSE, WINDOW_ONLY, choose_modes
from beacon_lit.evaluation.ranks import Ranks
from beacon_lit.evaluation.results import flat_metrics, make_figures, save
from beacon_lit.evaluation.runner import check_batch_size, rescore, run
from beacon_lit.evaluation.table import cost_table, score_table
from beacon_lit.evaluation.task import Results, Subject
from beacon_lit.options import check_options
from beacon_lit.record import command_line, recorded
from beacon_lit.runs import check_earlier_run, check_started, of_earlier_run, quiet, save_config, subject

log = logging.getLogger(__name__)
resolvers.register()


@recorded
def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Run what `cfg` describes (conf/evaluate.yaml) and return its metrics by name."""
    folder = Path(cfg.run_folder)
    check_batch_size(cfg.batch_size)
    if not cfg.get("task"):
        raise ValueError("task=[] is not allowed; allowed: at least one of conf/task, as in task=[perplexity,passkey]")
    if cfg.checkpoint is not None and Path(cfg.checkpoint).exists():  # a link, such as outputs/latest, may move on
        cfg.checkpoint = str(Path(cfg.checkpoint).resolve())
    tasks = {name: instantiate(task, _convert_="all") for name, task in cfg.task.items()}
    if cfg.rescore is not None:
        results: Results = rescore(tasks, folder)
        save_config(cfg, folder)  # with the settings that these grades come from
    else:
        fabric = Fabric(accelerator=cfg.accelerator, devices=cfg.devices, num_nodes=cfg.num_nodes)
        check_started(fabric.world_size)
        fabric.launch()
        ranks = Ranks(fabric.global_rank, fabric.world_size)
        lightning.seed_everything(cfg.seed, verbose=False)
        lm, tokenizer = subject(cfg, fabric.device)
        ratios = as_tuple(lm.beacon.ratios if cfg.ratio is None else cfg.ratio)
        modes = choose_modes(lm, [DENSE] * cfg.dense + [WINDOW_ONLY] * cfg.window_only + [*ratios])
        cfg.beacon.update(lm.beacon.to_dict())
        if fabric.is_global_zero:
            save_config(cfg, folder)
        texts = Subject(lm, tokenizer, lambda: instantiate(cfg.data, tokenizer=tokenizer).validation_documents())
        results = run(
            tasks,
            texts,
            modes,
            batch_size=cfg.batch_size,
            ranks=ranks,
            journal=Journal(folder, ranks.rank),
            progress=fabric.is_global_zero,
        )
        if not fabric.is_global_zero:
            return flat_metrics(results)
    runs = {"": results}
    settings = cast(dict, OmegaConf.to_container(cfg, resolve=True))
    save(folder, tasks, runs, make_figures(tasks, runs), settings, command_line())
    console = Console()
    console.print(score_table(runs, title=str(cfg.checkpoint or cfg.model.path)))
    console.print(cost_table(results))
    log.info(f"written to {folder}: report.html shows all of it")
    return flat_metrics(results)


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """The command line."""
    quiet()
    evaluate(of_earlier_run(cfg, HydraConfig.get().overrides.task))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    check_options(sys.argv[1:], Path(__file__).parent / "conf")
    check_earlier_run(sys.argv[1:])
    main()
