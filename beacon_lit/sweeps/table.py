"""Write a table with a row per run: for the terminal, as Markdown, as CSV."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich import box
from rich.markup import escape
from rich.table import Table

from beacon_lit.files import replacing
from beacon_lit.record import DONE, FAILED
from beacon_lit.sweeps.differences import MISSING, as_number, swept
from beacon_lit.sweeps.jobs import Job, headlines

STYLES = {DONE: "green", FAILED: "red"}


@dataclass(frozen=True)
class Column:
    """A named column with a cell for each run. An `optional` column is left out of a narrow terminal."""

    name: str
    cells: list[str]
    optional: bool = False

    @property
    def header(self) -> str:
        """The name, with a line break before its last part."""
        at = max(self.name.rfind("."), self.name.rfind("/")) + 1
        return f"{self.name[:at]}\n{self.name[at:]}" if at and self.name != "tokens/s" else self.name

    @property
    def width(self) -> int:
        """The width in characters, including the space between columns."""
        return max(map(len, [*self.header.splitlines(), *self.cells])) + 2

    @property
    def justify(self) -> Literal["left", "right"]:
        """The alignment: numbers to the right."""
        return "left" if self.name in ("run", "state") else "right"


def columns_of(jobs: Sequence[Job], metric: str | None) -> list[Column]:
    """Return the columns: settings that differ, headline metrics (`metric` first), time, speed and state."""
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


def terminal(jobs: Sequence[Job], best: Job | None, metric: str | None, width: int) -> Table:
    """Make a table for a terminal of `width` characters, with as many columns as fit; the best run is bold."""
    columns = columns_of(jobs, metric)
    room = width - sum(column.width for column in columns if not column.optional) - 2
    table = Table(box=box.SIMPLE_HEAD)
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
    """Make a Markdown table; the best run is bold."""
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
    """Write everything unrounded: settings that differ, all metrics, seconds, state, error."""
    settings = swept(jobs)
    metrics = list(dict.fromkeys(name for job in jobs for name in job.metrics))
    with replacing(file) as partial, partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as out:
        writer = csv.writer(out)
        writer.writerow(["run", "state", *settings, *metrics, "seconds", "error"])
        for i, job in enumerate(jobs):
            values = [job.metrics.get(name) for name in metrics]
            writer.writerow(
                [job.name, job.state, *(column[i] for column in settings.values()), *values, job.seconds, job.error]
            )


def _short(text: str) -> str:
    """Shorten long numbers; leave other values unchanged."""
    number = as_number(text)
    return text if number is None or len(text) <= 8 else f"{number:.4g}"


def _number(value: float | None, form: str = "{:.4g}") -> str:
    return MISSING if value is None else form.format(value)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
