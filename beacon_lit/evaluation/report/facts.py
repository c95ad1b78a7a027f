"""Tables with a row per mode: prompts, cuts, ratios, ends of answers, time and memory."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from beacon_lit.evaluation.costs import costs
from beacon_lit.evaluation.task import Record

# Fields whose values are counted -> columns.
COUNTED = {"template": "template", "prompts": "prompts", "ratio": "ratio used", "ended_by": "ended by"}
MOST_VALUES = 4

Rows = dict[str, dict[str, str]]


def cost_rows(records: Mapping[str, Sequence[Record]]) -> Rows:
    """Tabulate how much was read, and time and memory.

    Args:
        records: records by mode.

    Returns:
        Mode -> column -> text, without empty columns.
    """
    return _filled({mode: _read(of_mode) | _costs(of_mode) for mode, of_mode in records.items()})


def fact_rows(records: Mapping[str, Sequence[Record]]) -> Rows:
    """Tabulate as `cost_rows`, with prompts, ratios and ends of answers of one task."""
    return _filled({mode: _read(of_mode) | _asked(of_mode) | _costs(of_mode) for mode, of_mode in records.items()})


def _filled(rows: Rows) -> Rows:
    """Leave out empty columns."""
    columns = [name for name in next(iter(rows.values())) if any(row[name] for row in rows.values())]
    return {mode: {name: row[name] for name in columns} for mode, row in rows.items()}


def _read(records: Sequence[Record]) -> dict[str, str]:
    cut = [record["tokens_dropped"] for record in records if record.get("tokens_dropped")]
    return {
        "examples": f"{len(records):,}",
        "tokens each": _range([record["tokens_in"] for record in records]),
        "cut": f"{sum(cut):,} tokens of {len(cut):,} examples" if cut else "",
    }


def _asked(records: Sequence[Record]) -> dict[str, str]:
    return {column: _counted([r[name] for r in records if name in r]) for name, column in COUNTED.items()}


def _costs(records: Sequence[Record]) -> dict[str, str]:
    found = costs(records)
    return {
        "seconds": f"{found['seconds']:,.1f}",
        "tokens/s": f"{found['tokens_per_second']:,.0f}",
        "cache MiB": f"{found['cache_mib']:,.2f}",
    }


def _range(values: Sequence[int]) -> str:
    low, high = min(values, default=0), max(values, default=0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _counted(values: Sequence[Any]) -> str:
    """Write the only value (`8`), or values with their counts (`8 (12), 4 (3)`); None is not counted."""
    counts = Counter(str(value) for value in values if value is not None).most_common()
    if len(counts) == 1:
        return counts[0][0]
    shown = ", ".join(f"{value} ({count:,})" for value, count in counts[:MOST_VALUES])
    return shown if len(counts) <= MOST_VALUES else f"{shown}, {len(counts) - MOST_VALUES} more"
