"""Draw the metric of a sweep's runs over the settings that differ."""

import math
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from beacon_lit.sweeps.differences import as_number

WIDTH = 4.6  # inches of a panel
SHOWN = 12  # most panels, and most values of a setting that get ticks or colours of their own
Points = Sequence[tuple[str, str, float]]  # value on the x axis, value of the colour, metric


def metric_by_settings(settings: dict[str, list[str]], values: Sequence[float], metric: str, best: int) -> Figure:
    """Draw one panel for one or two settings, with a line per value of the second; for more, one panel per setting.

    Seeds are not a setting: runs that differ in their seed alone are points of one line.

    Args:
        settings: name -> value in each run; at least one setting.
        values: the metric of each run.
        metric: the metric's name.
        best: index of the run to mark.
    """
    settings = {name: column for name, column in settings.items() if name != "seed"} or settings
    names = sorted(settings, key=lambda name: (_numeric(settings[name]), len(set(settings[name]))), reverse=True)
    together = len(names) == 2 and len(set(settings[names[1]])) <= SHOWN
    panels = names[:1] if together else [name for name in settings if name in names[:SHOWN]]
    rows = math.ceil(len(panels) / 3)
    across = math.ceil(len(panels) / rows)
    figure = Figure(figsize=(max(WIDTH * across, 6.4), 3.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, across, sharey=True, squeeze=False).flat
    for axes, name in zip(grid, panels, strict=False):
        second = settings[names[1]] if together else [""] * len(values)
        points = list(zip(settings[name], second, values, strict=True))
        _panel(axes, points, name, points[best], together or len(names) == 1)
        if together:
            axes.legend(title=names[1], frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    for axes in list(grid.base.flat)[len(panels) :]:
        axes.remove()
    figure.supylabel(metric, fontsize=11)
    figure.suptitle(f"{metric} of {len(values)} runs; ringed: {values[best]:.4g}, the best", fontsize=11)
    return figure


def _panel(axes: Axes, points: Points, name: str, best: tuple[str, str, float], lines: bool) -> None:
    """Draw the metric over one setting; with `lines`, join the means of points of one colour."""
    place = _axis(axes, [x for x, _, _ in points])
    hues = sorted({hue for _, hue, _ in points}, key=_order)
    numeric = _numeric([x for x, _, _ in points])
    for i, hue in enumerate(hues):
        color = colormaps["viridis"](0.85 * i / (len(hues) - 1)) if len(hues) > 1 else "#1f77b4"
        own = [(place[x], value) for x, other, value in points if other == hue]
        axes.plot(*zip(*own, strict=True), "o", color=color, markersize=6, alpha=0.85, label=hue)
        if lines and numeric:
            means = {x: [value for at, value in own if at == x] for x, _ in own}
            curve = sorted((x, sum(same) / len(same)) for x, same in means.items())
            axes.plot(*zip(*curve, strict=True), "-", color=color, linewidth=1.3)
    axes.plot(place[best[0]], best[2], "o", markersize=13, markerfacecolor="none", color="#d95f02", markeredgewidth=1.8)
    axes.set_xlabel(name)
    axes.margins(0.1)
    axes.grid(alpha=0.25)


def _axis(axes: Axes, values: Sequence[str]) -> dict[str, float]:
    """Return the position of each value: its number (on a logarithmic axis for a wide range), or its rank by name."""
    distinct = sorted(set(values), key=_order)
    if not _numeric(values):
        axes.set_xticks(range(len(distinct)), distinct, rotation=30 if max(map(len, distinct)) > 8 else 0)
        return {value: float(i) for i, value in enumerate(distinct)}
    place = {value: float(value) for value in distinct}
    low, high = min(place.values()), max(place.values())
    if low > 0 and high / low >= 4:
        axes.set_xscale("log")
    if len(distinct) <= SHOWN // 2 and max(map(len, distinct)) <= 7:
        axes.set_xticks(list(place.values()), distinct)
        axes.xaxis.set_minor_locator(NullLocator())
    elif axes.get_xscale() == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(6))
    return place


def _numeric(values: Sequence[str]) -> bool:
    return all(as_number(value) is not None for value in values)


def _order(value: str) -> tuple[float, str]:
    number = as_number(value)
    return (math.inf if number is None else number, value)
