"""Tables at the end of a run with a row per mode: scores by task and run, and costs."""

from collections.abc import Mapping

from rich import box
from rich.table import Table

from beacon_lit.evaluation.costs import by_mode, costs
from beacon_lit.evaluation.task import Results


def score_table(runs: Mapping[str, Results]) -> Table:
    """Make the table of scores, with columns grouped by task.

    Args:
        runs: label ("before training", or "" for a single run) -> results.
    """
    results = list(runs.values())
    newest = list(runs)[-1]
    tasks = list(dict.fromkeys(task for result in results for task in result))
    modes = list(dict.fromkeys(mode for result in results for scores in result.values() for mode in scores))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for task in tasks:
        for label in runs:
            heading, style = f"{task}\n{label}" if label else task, "bold" if label == newest else None
            table.add_column(heading, justify="right", style=style, overflow="fold")
    for mode in modes:
        table.add_row(mode, *(_cell(result, task, mode) for task in tasks for result in results))
    return table


def cost_table(results: Results) -> Table:
    """Make the table of costs of all tasks together: seconds, tokens read per second, MiB of the largest cache."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in ("seconds", "tokens/s", "cache MiB"):
        table.add_column(name, justify="right")
    for mode, records in by_mode(results).items():
        took = costs(records)
        table.add_row(mode, f"{took['seconds']:,.1f}", f"{took['tokens_per_second']:,.0f}", f"{took['cache_mib']:,.2f}")
    return table


def _cell(result: Results, task: str, mode: str) -> str:
    score = result.get(task, {}).get(mode)
    return "-" if score is None else f"{score.value:.2f}"
