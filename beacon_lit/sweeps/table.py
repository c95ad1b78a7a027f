"""A table with a row per run: for the terminal, as Markdown, as CSV."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich import box
from rich.markup import escape
from rich.table import Table

from beacon_lit.record import DONE, FAILED
from beacon_lit.sweeps.jobs import Job, headlines
from beacon_lit.sweeps.settings import MISSING, as_number, swept

STYLES = {DONE: "green", FAILED: "red"}


@dataclass(frozen=True)
class Column:
    """A name, and a cell for each run. An `optional` one is left out where there is no room."""

    name: str
    cells: list[str]
    optional: bool = False

    @property
    def header(self) -> str:
        """The name, broken behind what comes before its last part."""
        at = max(self.name.rfind("."), self.name.rfind("/")) + 1
        return f"{self.name[:at]}\n{self.name[at:]}" if at and self.name != "tokens/s" else self.name

    @property
    def width(self) -> int:
        """Characters, with the space beside it."""
        return max(map(len, [*self.header.splitlines(), *self.cells])) + 2

    @property
    def justify(self) -> Literal["left", "right"]:
        """Numbers to the right."""
        return "left" if self.name in ("run", "state") else "right"


def columns_of(jobs: Sequence[Job], metric: str | None) -> list[Column]:
    """Settings that differ, headline metrics from `metric` on, time, speed and state."""
    names = headlines(jobs)
    if metric is not None:
        names = list(dict.fromkeys([metric, *names]))
    columns = [Column("run", [job.name for job in jobs])]
    columns += [Column(name, list(map(_short, values))) for name, values in swept(jobs).items()]
    columns += [Column(name, [_number(job.metrics.get(name)) for job in jobs], name != metric) for name in names]
    columns.append(Column("time", [_time(job.seconds) for job in jobs]))
    if any(job.tokens_per_second for job in jobs):
        columns.append(Column("tokens/s", [_number(job.tokens_per_second, "{:,.0f}") for job in jobs]))
    return [*columns, Column("state", [job.state for job in jobs])]


def terminal(jobs: Sequence[Job], best: Job | None, metric: str | None, title: str, width: int) -> Table:
    """For rich, with the columns that a terminal of `width` characters has room for; the best run is bold."""
    columns = columns_of(jobs, metric)
    room = width - sum(column.width for column in columns if not column.optional) - 2
    table = Table(title=escape(title), box=box.SIMPLE_HEAD, title_justify="left")
    shown = []
    for column in columns:
        room -= column.width * column.optional
        if room >= 0 or not column.optional:
            shown.append(column)
            table.add_column(escape(column.header), justify=column.justify, overflow="fold")
    for i, job in enumerate(jobs):
        *cells, state = (escape(column.cells[i]) for column in shown)
        style = STYLES.get(job.state, "yellow")
        table.add_row(*cells, f"[{style}]{state}[/]", style="bold" if job is best else None)
    return table


def markdown(jobs: Sequence[Job], best: Job | None, metric: str | None) -> str:
    """A Markdown table; the best run is bold."""
    columns = columns_of(jobs, metric)
    lines = [
        [column.name for column in columns],
        ["---" if column.justify == "left" else "---:" for column in columns],
    ]
    for i, job in enumerate(jobs):
        cells = [column.cells[i] for column in columns]
        lines.append([f"**{cell}**" for cell in cells] if job is best else cells)
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def write_csv(jobs: Sequence[Job], file: Path) -> None:
    """Everything that is known, unrounded: settings that differ, all metrics, seconds, state, error."""
    settings = swept(jobs)
    metrics = list(dict.fromkeys(name for job in jobs for name in job.metrics))
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["run", "state", *settings, *metrics, "seconds", "error"])
        for i, job in enumerate(jobs):
            values = [job.metrics.get(name) for name in metrics]
            writer.writerow(
                [job.name, job.state, *(column[i] for column in settings.values()), *values, job.seconds, job.error]
            )


def _short(text: str) -> str:
    """A value of few digits; names as they are."""
    number = as_number(text)
    return text if number is None or len(text) <= 8 else f"{number:.4g}"


def _number(value: float | None, form: str = "{:.4g}") -> str:
    return MISSING if value is None else form.format(value)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
