"""What the records tell of how they came about: prompts, cuts, ratios, ends, time and memory, a row per mode."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from beacon_lit.evaluation.costs import costs
from beacon_lit.evaluation.task import Record

# Fields whose values are counted, and their columns.
COUNTED = {"template": "template", "prompts": "prompts", "ratio": "ratio used", "ended_by": "ended by"}
MOST_VALUES = 4

Rows = dict[str, dict[str, str]]


def cost_rows(records: Mapping[str, Sequence[Record]]) -> Rows:
    """Mode -> column -> text: how much was read, and what it took.

    Args:
        records: by mode.
    """
    return _filled({mode: _read(of_mode) | _took(of_mode) for mode, of_mode in records.items()})


def fact_rows(records: Mapping[str, Sequence[Record]]) -> Rows:
    """As `cost_rows`, with what records of one task tell of prompts, ratios and ends of answers."""
    return _filled({mode: _read(of_mode) | _said(of_mode) | _took(of_mode) for mode, of_mode in records.items()})


def _filled(rows: Rows) -> Rows:
    """Without the columns in which there is nothing."""
    columns = [name for name in next(iter(rows.values())) if any(row[name] for row in rows.values())]
    return {mode: {name: row[name] for name in columns} for mode, row in rows.items()}


def _read(records: Sequence[Record]) -> dict[str, str]:
    cut = [record["tokens_dropped"] for record in records if record.get("tokens_dropped")]
    return {
        "examples": f"{len(records):,}",
        "tokens each": _range([record["tokens_in"] for record in records]),
        "cut": f"{sum(cut):,} tokens of {len(cut):,} examples" if cut else "",
    }


def _said(records: Sequence[Record]) -> dict[str, str]:
    return {column: _counted([r[name] for r in records if name in r]) for name, column in COUNTED.items()}


def _took(records: Sequence[Record]) -> dict[str, str]:
    took = costs(records)
    return {
        "seconds": f"{took['seconds']:,.1f}",
        "tokens/s": f"{took['tokens_per_second']:,.0f}",
        "cache MiB": f"{took['cache_mib']:,.2f}",
    }


def _range(values: Sequence[int]) -> str:
    low, high = min(values, default=0), max(values, default=0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _counted(values: Sequence[Any]) -> str:
    """`8`, or with counts if there are several: `8 (12), 4 (3)`. None counts for nothing."""
    counts = Counter(str(value) for value in values if value is not None).most_common()
    if len(counts) == 1:
        return counts[0][0]
    shown = ", ".join(f"{value} ({count:,})" for value, count in counts[:MOST_VALUES])
    return shown if len(counts) <= MOST_VALUES else f"{shown}, {len(counts) - MOST_VALUES} more"
