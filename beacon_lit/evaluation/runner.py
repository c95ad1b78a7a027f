"""Runs tasks on a model without leaving a trace in it, names the numbers, writes them down."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from beacon_lit.evaluation.modes import Mode, Model
from beacon_lit.evaluation.task import Document, Results, Score, Subject, Task


def run(
    tasks: Mapping[str, Task],
    lm: Model,
    tokenizer: PreTrainedTokenizerBase,
    modes: Sequence[Mode],
    documents: Sequence[Document] = (),
    progress: bool = True,
) -> dict[str, dict[str, Score]]:
    """Scores by task name and mode name.

    The model is put into eval mode and back, module by module; no gradients are recorded, no random numbers drawn.

    Args:
        tasks: by the name that tables, metrics and files give them.
        documents: (id, token ids) of held-out texts, for tasks that read them.
        progress: show a bar.
    """
    subject = Subject(lm, tokenizer, documents)
    results: dict[str, dict[str, Score]] = {name: {} for name in tasks}
    with (
        evaluating(lm),
        tqdm(desc="evaluation", total=len(tasks) * len(modes), leave=False, disable=not progress) as bar,
    ):
        for name, task in tasks.items():
            for mode in modes:
                bar.set_description(f"{name}, {mode.name}")
                results[name][mode.name] = task.evaluate(subject, mode)
                bar.update()
    return results


@contextmanager
def evaluating(lm: torch.nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module gets back its own mode. (Not inference mode: tensors that a model
    keeps for later, such as layouts, would be unusable in training.)"""
    training = {module: module.training for module in lm.modules()}
    lm.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


def flat_metrics(results: Results, details: bool = True) -> dict[str, float]:
    """Numbers by name: "perplexity/ratio_8", and with `details` also "perplexity/ratio_8/window_3"."""
    metrics = {}
    for task, scores in results.items():
        for mode, score in scores.items():
            name = f"{task}/{mode.replace(' ', '_')}"
            metrics[name] = score.value
            if details:
                metrics |= {f"{name}/{detail}": value for detail, value in score.details.items()}
    return metrics


def make_figures(tasks: Mapping[str, Task], runs: Mapping[str, Results]) -> dict[str, Figure]:
    """Figures by name ("perplexity_by_ratio"). `runs` maps labels to results; the last is the newest."""
    figures: dict[str, Figure] = {}
    for name, task in tasks.items():
        of_task = {label: results[name] for label, results in runs.items() if name in results}
        figures |= {f"{name}_{kind}": figure for kind, figure in task.figures(of_task).items()}
    return figures


def save(folder: str | Path, results: Results, figures: Mapping[str, Figure]) -> None:
    """Write `metrics.json`, `predictions.jsonl` and a PNG per figure into `folder`, which is made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(flat_metrics(results), indent=2) + "\n")
    with (folder / "predictions.jsonl").open("w") as file:
        for task, scores in results.items():
            for mode, score in scores.items():
                for record in score.predictions:
                    file.write(json.dumps({"task": task, "mode": mode, **record}) + "\n")
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
