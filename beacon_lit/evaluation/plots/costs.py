"""Costs of examples against their tokens."""

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from beacon_lit.evaluation.plots.style import MOST_POINTS, legend_beside, mode_styles, plain, scale
from beacon_lit.evaluation.task import Record


def costs_by_length(records: Mapping[str, Sequence[Record]], name: str = "") -> Figure:
    """Draw seconds and cache bytes of examples against their tokens, one line per mode.

    A point is the median of the examples of one length, or of neighbouring lengths where there are many.

    Args:
        records: mode name -> records with "tokens_in", "seconds" and "cache_bytes", of at least two lengths.
        name: name of their task.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    styles = mode_styles(list(records))
    lengths = sorted({record["tokens_in"] for of_mode in records.values() for record in of_mode})
    wide = lengths[-1] > 4 * lengths[0]
    for axes, field, unit, title in zip(
        figure.subplots(1, 2),
        ("seconds", "cache_bytes"),
        (1, 2**20),
        ("Seconds per example", "Cache per example (MiB)"),
        strict=True,
    ):
        for mode, of_mode in records.items():
            points = _medians_by_length(of_mode, field, unit, lengths)
            axes.plot(*zip(*points, strict=True), marker="o", markersize=5, label=mode, **styles[mode])
        plain(axes)
        if wide:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(LogLocator(base=2, numticks=6))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        scale(axes, [value for line in axes.lines for value in np.asarray(line.get_ydata())])
        axes.set_xlabel("tokens read")
        axes.set_title(title, fontsize=11)
    if name:
        figure.suptitle(f"Costs by length: {name}")
    legend_beside(axes)
    return figure


def _medians_by_length(
    records: Sequence[Record], field: str, unit: float, lengths: Sequence[int]
) -> list[tuple[float, float]]:
    """Group records by length; return median tokens and median value of each group."""
    edges = list(lengths)
    if len(lengths) > MOST_POINTS:
        edges = list(np.geomspace(lengths[0], lengths[-1], MOST_POINTS))
    groups: dict[int, list[Record]] = {}
    for record in records:
        groups.setdefault(int(np.searchsorted(edges, record["tokens_in"])), []).append(record)
    return [
        (median(record["tokens_in"] for record in group), median(record[field] for record in group) / unit)
        for _, group in sorted(groups.items())
    ]
