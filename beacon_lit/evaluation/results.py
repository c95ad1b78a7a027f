"""Names the numbers of results, draws their figures, and writes all of it to the folder of a run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from beacon_lit.evaluation.costs import by_mode
from beacon_lit.evaluation.journal import Journal
from beacon_lit.evaluation.plots import costs_by_length
from beacon_lit.evaluation.report import write_report
from beacon_lit.evaluation.task import ModeScores, Results, Task
from beacon_lit.files import replacing, write_text


def flat_metrics(results: Results, details: bool = True) -> dict[str, float]:
    """Return numbers by name: "perplexity/ratio_8", and with `details` also "perplexity/ratio_8/window_3"."""
    metrics = {}
    for task, scores in results.items():
        for mode, score in scores.items():
            name = f"{task}/{mode.replace(' ', '_')}"
            metrics[name] = score.value
            if details:
                metrics |= {f"{name}/{detail}": value for detail, value in score.details.items()}
    return metrics


def flat_costs(results: Results) -> dict[str, float]:
    """Return costs by name: "costs/perplexity/ratio_8/seconds"."""
    return {
        f"costs/{task}/{mode.replace(' ', '_')}/{name}": value
        for task, scores in results.items()
        for mode, score in scores.items()
        for name, value in score.costs.items()
    }


def make_figures(tasks: Mapping[str, Task], runs: Mapping[str, Results]) -> dict[str, Figure]:
    """Draw the figures of all tasks.

    Args:
        tasks: tasks by name.
        runs: label ("before training", or "" for a single run) -> results; the last is the newest.

    Returns:
        Figures by name, such as "perplexity_by_ratio".
    """
    figures: dict[str, Figure] = {}
    for name, task in tasks.items():
        of_task = {label: results[name] for label, results in runs.items() if name in results}
        figures |= {f"{name}_{kind}": figure for kind, figure in task.figures(of_task).items()}
    spread = {name: _spread(scores) for name, scores in list(runs.values())[-1].items()}
    widest = max(spread, key=lambda name: spread[name], default=None)
    if widest is not None and spread[widest] > 1:  # one task alone, since answers of tasks differ in length
        figures["costs_by_length"] = costs_by_length(by_mode({widest: runs[list(runs)[-1]][widest]}), widest)
    return figures


def _spread(scores: ModeScores) -> float:
    """Return the ratio of a task's longest and shortest text."""
    lengths = [record["tokens_in"] for score in scores.values() for record in score.predictions]
    return max(lengths) / max(min(lengths), 1) if lengths else 0.0


def save(
    folder: str | Path,
    tasks: Mapping[str, Task],
    runs: Mapping[str, Results],
    figures: Mapping[str, Figure],
    settings: Mapping[str, Any],
    command: str = "",
    notes: Sequence[str] = (),
) -> None:
    """Write the newest of the runs: `metrics.json`, `predictions.jsonl`, a PNG per figure, and `report.html`.

    Args:
        folder: where to write; created if necessary.
        tasks, runs, figures: see `make_figures`.
        settings, command, notes: see `write_report`.
    """
    folder = Path(folder)
    results = list(runs.values())[-1]
    scores = [score for of_task in results.values() for score in of_task.values()]
    Journal.close(folder, (record for score in scores for record in score.predictions))
    write_text(folder / "metrics.json", json.dumps(flat_metrics(results) | flat_costs(results), indent=2) + "\n")
    for name, figure in figures.items():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # found once, not for every image that is made of the figure
        with replacing(folder / f"{name}.png") as partial:
            figure.savefig(partial, dpi=150, format="png")
    write_report(folder, tasks, runs, figures, settings, command, notes)
