"""Evaluate beacons: `beacon-evaluate`, or `python evaluate.py` in a checkout; settings: conf/evaluate.yaml."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.text import Text

from beacon_lit.checks import as_tuple
from beacon_lit.cli.checks import check_accelerator, check_started, check_trained, members
from beacon_lit.cli.command import command
from beacon_lit.cli.earlier import check_earlier_run, of_earlier_run
from beacon_lit.evaluation.baselines import Kvpress, Peer
from beacon_lit.evaluation.journal import Journal
from beacon_lit.evaluation.modes import DENSE, WINDOW_ONLY, choose_modes
from beacon_lit.evaluation.ranks import Ranks
from beacon_lit.evaluation.results import flat_metrics, make_figures, save
from beacon_lit.evaluation.runner import check_batch_size, rescore, run
from beacon_lit.evaluation.table import cost_table, score_table
from beacon_lit.evaluation.task import Results, Subject, Task
from beacon_lit.record import command_line, recorded
from beacon_lit.runs import save_config, subject

log = logging.getLogger(__name__)
Tasks = dict[str, Task]


@recorded
def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Evaluate the model of `cfg` (conf/evaluate.yaml), write the results to its run folder and return the metrics.

    Returns:
        values by name, such as "perplexity/ratio_4"; on several processes, the same on each.

    Raises:
        ValueError: a setting is wrong; the message names it and says what is allowed.
    """
    folder = Path(cfg.run_folder)
    check_batch_size(cfg.batch_size)
    if not members(cfg.get("task")):
        raise ValueError("task=[] is not allowed; allowed: at least one of conf/task, as in task=[perplexity,passkey]")
    if cfg.checkpoint is not None:
        found = Path(cfg.checkpoint).expanduser()
        cfg.checkpoint = (
            str(found.resolve()) if found.exists() else cfg.checkpoint
        )  # a link, such as outputs/latest, may move on
    tasks = {name: instantiate(task, _convert_="all") for name, task in members(cfg.task).items()}
    methods = cfg.get("baselines")  # the config of an earlier version has none
    kvpress = instantiate(cfg.kvpress, methods=as_tuple(methods), _convert_="all") if methods else Kvpress()
    if cfg.rescore is None:
        results, notes, is_first = _predict(cfg, tasks, folder, kvpress)
    else:
        results, notes, is_first = rescore(tasks, folder), [], True
        save_config(cfg, folder)  # with the settings that these grades come from
    if is_first:
        _report(cfg, tasks, folder, results, notes)
    return flat_metrics(results)


def _predict(cfg: DictConfig, tasks: Tasks, folder: Path, kvpress: Kvpress) -> tuple[Results, list[str], bool]:
    """Run the tasks on the model, on all processes.

    Returns:
        The results, notes on baselines, and whether this is the first process.
    """
    check_accelerator(cfg.accelerator, cfg.devices)
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
    version = kvpress.version()
    asked = Subject(lm, tokenizer, lambda: instantiate(cfg.data, tokenizer=tokenizer).validation_documents())
    with Peer(kvpress.python, asked) as peer:
        results = run(
            tasks,
            asked,
            modes,
            baselines=kvpress.baselines(modes, peer) if version else (),
            batch_size=cfg.batch_size,
            ranks=ranks,
            journal=Journal(folder, ranks.rank),
            progress=fabric.is_global_zero,
        )
    return results, kvpress.notes(version, results), fabric.is_global_zero


def _report(cfg: DictConfig, tasks: Tasks, folder: Path, results: Results, notes: Sequence[str]) -> None:
    """Write the results to `folder` and print their tables."""
    runs = {"": results}
    settings = cast(dict, OmegaConf.to_container(cfg, resolve=True))
    save(folder, tasks, runs, make_figures(tasks, runs), settings, command_line(), notes)
    console = Console()
    evaluated = Text(f"\n  {cfg.checkpoint or cfg.model.path}", "italic")
    console.print(evaluated, soft_wrap=True)  # a long path is not broken into lines
    console.print(score_table(runs))
    console.print(cost_table(results))
    for note in notes:
        log.info(note)
    log.info(f"results: {folder}/report.html, and the files beside it")


@command("evaluate", check_earlier_run, check_trained)
def main(cfg: DictConfig) -> None:
    """Run the command line."""
    evaluate(of_earlier_run(cfg, HydraConfig.get().overrides.task))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
