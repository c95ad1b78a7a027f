"""Print tables row by row, and write them as JSON."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.device import OUT_OF_MEMORY

Row = dict[str, Any]

# part -> key of a row -> format of its value
COLUMNS: dict[str, dict[str, str]] = {
    "read": {
        "tokens": ",", "seconds": ".3f", "tokens_per_second": ",.0f", "peak_gib": ".2f", "cache_gib": ".3f",
        "of_floor": ".2f", "runs": "",
    },
    "decode": {
        "tokens": ",", "median_ms": ".2f", "border_ms": ".2f", "worst_ms": ".2f", "worst_step": "", "first_ms": ".0f",
        "tokens_per_second": ",.1f", "of_floor": ".2f", "peak_gib": ".2f", "cache_gib": ".3f",
    },
    "batch": {
        "tokens": ",", "batch": "", "tokens_per_second": ",.1f", "median_ms": ".2f", "border_ms": ".2f",
        "first_ms": ".0f", "of_floor": ".2f", "peak_gib": ".2f", "cache_gib": ".3f",
    },
}  # fmt: skip
TITLES = {"tokens_per_second": "tokens/s", "peak_gib": "peak GiB", "cache_gib": "cache GiB", "of_floor": "x floor"}
WIDTH = 11


class Report:
    """Collect, print and write the rows of all parts.

    Attributes:
        rows: rows by part.
        complete: False once a measurement failed other than by running out of memory, or time ran out.
    """

    def __init__(self, folder: Path, environment: Mapping[str, Any], start: float, limit: float) -> None:
        """Make `folder`; time is up `limit` seconds after `start` (of `time.perf_counter`)."""
        self.folder, self.environment, self.start, self.limit = folder, dict(environment), start, limit
        self.rows: dict[str, list[Row]] = {}
        self.complete = True
        folder.mkdir(parents=True, exist_ok=True)
        print(", ".join(f"{name} {value}" for name, value in self.environment.items()))

    def begin(self, part: str, settings: Mapping[str, Any]) -> None:
        """Print the header of a table."""
        titles = [TITLES.get(key, key.replace("_", " ")) for key in COLUMNS[part]]
        print(f"\n{part}: " + ", ".join(f"{name} {value}" for name, value in settings.items()))
        print(f"{'':14}" + "".join(f"{title:>{WIDTH}}" for title in [*titles, "elapsed s"]))

    def add(self, part: str, row: Row) -> None:
        """Print a row, and rewrite the part's file."""
        row = {**row, "elapsed_s": round(self.elapsed(), 1)}
        self.rows.setdefault(part, []).append(row)
        self.complete &= row.get("error") in (None, OUT_OF_MEMORY)
        cells = [_cell(row.get(key), form) for key, form in COLUMNS[part].items()]
        if "error" in row:  # the error takes the place of the measured values
            given = [cell for cell in cells if cell.strip("- ")]
            cells = [*given, f"  {row['error']}".ljust(WIDTH * (len(cells) - len(given)))]
        print(f"{row['model']:14}" + "".join([*cells, _cell(row["elapsed_s"], ".0f")]), flush=True)
        content = {"environment": self.environment, "rows": self.rows[part]}
        if part == "batch":
            content["largest_batch"] = largest(self.rows[part])
        (self.folder / f"{part}.json").write_text(json.dumps(content, indent=1) + "\n")

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self.start

    def late(self) -> bool:
        """Whether time has run out."""
        if self.elapsed() <= self.limit:
            return False
        if self.complete:
            print(f"time is up after {self.elapsed():.0f} s: the remaining measurements are left out")
        self.complete = False
        return True


def largest(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return shape -> model -> the largest batch that ran, 0 if none did."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        best = found.setdefault(row["shape"], {})
        ran = 0 if "error" in row else row["batch"]
        best[row["model"]] = max(best.get(row["model"], 0), ran)
    return found


def _cell(value: Any, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>{WIDTH}}"
