"""Report runs in `summary.csv`, `summary.md`, `summary.png` and a table in the terminal."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from beacon_lit.checks import check_writable
from beacon_lit.files import replacing, write_text
from beacon_lit.record import DONE, STOPPED
from beacon_lit.sweeps.differences import swept
from beacon_lit.sweeps.figure import metric_by_settings
from beacon_lit.sweeps.jobs import UNFINISHED, Job, default_metric, find_jobs, finite, is_lower_better
from beacon_lit.sweeps.table import markdown, terminal, write_csv

WHY = {UNFINISHED: "still running, or killed", STOPPED: "by a signal or Ctrl-C"}


def report(
    folders: Sequence[str | Path],
    metric: str | None = None,
    maximize: bool = False,
    output: str | Path | None = None,
) -> list[Job]:
    """Compare runs: print a table, and write tables and a figure.

    Args:
        folders: folders of runs, or folders with runs at any depth.
        metric: the metric of the figure, by which the best run is chosen; default: see `default_metric`.
        maximize: whether higher values are better; also if the metric is a score that was chosen by default.
        output: folder to write to; default: the first of `folders`.

    Returns:
        The runs.

    Raises:
        ValueError: a folder without runs, runs of several commands, or a metric that no run has.
    """
    paths = [Path(folder) for folder in folders]
    output = paths[0] if output is None else Path(output)
    check_writable("output", output)
    jobs = find_jobs(paths)
    names = sorted({name for job in jobs for name in job.metrics})
    if metric is not None and metric not in names:
        raise ValueError(f"metric={metric!r} is not allowed; allowed: {', '.join(names) or 'none, as no run is done'}")
    if metric is None:
        metric = default_metric(jobs)
        if metric is not None and all(job.config.get("optimized_metric") is None for job in jobs):
            maximize = maximize or not is_lower_better(metric)
    scored = [job for job in jobs if job.state == DONE and finite(job, metric) is not None]
    pick = max if maximize else min
    best = pick(scored, key=lambda job: job.metrics[str(metric)]) if len(scored) > 1 else None
    write_csv(jobs, output / "summary.csv")
    write_text(output / "summary.md", markdown(jobs, best, metric))
    written, settings = ["summary.csv", "summary.md"], swept(scored) if best else {}
    if best and settings:
        values = [job.metrics[str(metric)] for job in scored]
        figure = metric_by_settings(settings, values, str(metric), scored.index(best))
        with replacing(output / "summary.png") as unfinished, unfinished.open("wb") as file:
            figure.savefig(file, dpi=150, format="png")
        written.append("summary.png")
    console = Console()
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    say(
        f"\n{' '.join(map(str, folders))}", style="italic"
    )  # not as the table's title, which would be broken into lines
    console.print(terminal(jobs, best, metric, console.width))
    if best:
        say(f"best by {metric}: {best.name}")
    for job in jobs:
        if job.state != DONE:
            say(f"{job.name} {job.state}: {job.error or WHY[job.state]}")
    say(f"written to {output}: {', '.join(written)}")
    return jobs
