"""The look that all figures share: plain Figure objects without a window system or pyplot's global state."""

from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from beacon_lit.evaluation.modes import DENSE, WINDOW_ONLY, split_baseline

REFERENCES: dict[str, dict[str, Any]] = {
    DENSE: dict(color="#222222", linestyle="-"),
    WINDOW_ONLY: dict(color="#888888", linestyle="--"),
}
MOST_POINTS = 16  # of a line


def mode_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Choose the colour and line of each mode: fixed ones for dense and window-only, shades of one scale for the rest.

    Baselines have a scale of their own and dotted lines.
    """
    baselines = [name for name in names if split_baseline(name)]
    ratios = [name for name in names if name not in REFERENCES and name not in baselines]
    styles = REFERENCES | _shades(ratios, "viridis") | _shades(baselines, "autumn", linestyle=":")
    return {name: styles[name] for name in names}


def _shades(names: Sequence[str], scale: str, **style: Any) -> dict[str, dict[str, Any]]:
    places = (0.2 + 0.65 * i / max(len(names) - 1, 1) for i in range(len(names)))
    return {name: dict(color=colormaps[scale](place), **style) for name, place in zip(names, places, strict=True)}


def titled(*parts: str) -> str:
    """Join the parts of a figure's title, such as the label of a run; empty parts are left out."""
    return ", ".join(filter(None, parts))


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Make a figure of `width` x `height` inches with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    plain(axes)
    return figure, axes


def plain(axes: Axes) -> None:
    """Leave out two sides of the frame, and draw faint horizontal lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)


def scale(axes: Axes, values: Sequence[float]) -> None:
    """Use a logarithmic axis if values differ by more than a factor of 3; write plain numbers on it."""
    if min(values) > 0 and max(values) > 3 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=7))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))


def legend_beside(axes: Axes) -> None:
    """Put the legend on the right, outside the axes."""
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
