"""Groups of bars."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from beacon_lit.evaluation.plots.style import canvas, legend_beside, mode_styles


def bars(series: Mapping[str, Mapping[str, float]], quantity: str, title: str) -> Figure:
    """Draw groups of bars side by side, with one bar per series in each group.

    Args:
        series: name, such as a mode -> value by group; groups keep the order in which they first come.
        quantity: name of the values, for the axis.
        title: title of the figure.
    """
    groups = list(dict.fromkeys(group for values in series.values() for group in values))
    room = max(0.8, 0.26 * (len(series) + 1))  # inches per group
    figure, axes = canvas(max(7.0, 2.0 + room * len(groups)), 4.4)
    width = 0.84 / max(len(series), 1)
    styles = mode_styles(list(series))
    for i, (name, values) in enumerate(series.items()):
        centres = [x + (i - (len(series) - 1) / 2) * width for x in range(len(groups))]
        heights = [values.get(group, float("nan")) for group in groups]
        drawn = axes.bar(centres, heights, 0.9 * width, color=styles[name]["color"], label=name)
        axes.bar_label(
            drawn, [f"{height:.0f}" if height == height else "" for height in heights], padding=2, fontsize=8
        )
    are_long = max(map(len, groups)) * 0.09 > room
    slant: dict[str, Any] = dict(rotation=25, ha="right", rotation_mode="anchor") if are_long else {}
    axes.set_xticks(range(len(groups)), groups, **slant)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(quantity)
    axes.set_title(title)
    legend_beside(axes)
    return figure
