"""Figures of scores. They are plain Figure objects: no window system, no global state of pyplot."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from beacon_lit.evaluation.modes import DENSE, WINDOW_ONLY
from beacon_lit.evaluation.task import ModeScores, Record

BASELINES: dict[str, dict[str, Any]] = {
    DENSE: dict(color="#222222", linestyle="-"),
    WINDOW_ONLY: dict(color="#888888", linestyle="--"),
}
RUN_COLORS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3")


def score_by_mode(runs: Mapping[str, ModeScores], quantity: str) -> Figure:
    """One line per run over the ratios; dense and window-only as horizontal lines.

    Args:
        runs: label ("" for a lone run) -> scores by mode; the baselines are those of the last run.
        quantity: what a score is, for the axis.
    """
    figure, axes = _canvas(7, 4.4)
    newest = list(runs.values())[-1]
    names = [name for name in newest if name not in BASELINES]
    for name, style in BASELINES.items():
        if name in newest:
            axes.axhline(newest[name].value, label=f"{name}: {newest[name].value:.2f}", linewidth=1.5, **style)
    shown = list(runs)[-len(RUN_COLORS) :]
    for label, color in zip(shown, reversed(RUN_COLORS[: len(shown)]), strict=True):
        values = [runs[label][name].value if name in runs[label] else float("nan") for name in names]
        axes.plot(names, values, "o-", color=color, label=label or "beacons", markersize=7)
        for spot in zip(names, values, strict=True):
            text = axes.annotate(f"{spot[1]:.2f}", spot, (0, 8), textcoords="offset points", ha="center", fontsize=9)
            text.set(color=color, path_effects=[withStroke(linewidth=3, foreground="white")])
    axes.margins(x=0.15, y=0.15)
    _scale(axes, [score.value for scores in runs.values() for score in scores.values()])
    axes.set_ylabel(quantity)
    axes.set_title(f"{quantity.capitalize()} by ratio")
    _legend_beside(axes)
    return figure


def perplexity_by_position(curves: Mapping[str, Sequence[float]], tokens: Sequence[int], title: str) -> Figure:
    """Perplexity along a piece, one line per mode.

    Args:
        curves: mode name -> perplexity of each window.
        tokens: scored tokens of each window (the first token of a piece is not scored).
        title: of the figure.
    """
    figure, axes = _canvas(7, 4.4)
    ends = [1 + sum(tokens[: i + 1]) for i in range(len(tokens))]
    starts = [0, *ends[:-1]]
    centres = [(start + end) / 2 for start, end in zip(starts, ends, strict=True)]
    colors = _mode_colors(curves)
    for name, values in curves.items():
        style = BASELINES.get(name) or dict(color=colors[name])
        axes.plot(centres, values, marker="o", markersize=5, label=name, **style)
    axes.set_xlim(0, ends[-1])
    if len(ends) <= 12:
        axes.set_xticks([0, *ends])
    _scale(axes, [value for values in curves.values() for value in values])
    axes.set_xlabel("position in the text (tokens, one point per window)")
    axes.set_ylabel("perplexity")
    axes.set_title(title)
    _legend_beside(axes)
    return figure


def heat_maps(panels: Mapping[str, Mapping[tuple[int, float], float]], title: str) -> Figure:
    """One heat map per panel of values in 0..1, red to green, annotated.

    Args:
        panels: name -> (length, depth in per cent) -> value.
        title: of the figure.
    """
    lengths = sorted({length for cells in panels.values() for length, _ in cells})
    depths = sorted({depth for cells in panels.values() for _, depth in cells})
    width = max(1.8, 0.62 * len(lengths) + 0.3)
    figure = Figure(figsize=(width * len(panels) + 1.6, max(2.6, 0.4 * len(depths) + 1.9)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, cells) in zip(grid, panels.items(), strict=True):
        image = _heat_map(axes, cells, lengths, depths)
        axes.set_title(name, fontsize=11)
    grid[0].set_ylabel("depth of the key")
    figure.supxlabel("length of the prompt (tokens)", fontsize=10)
    figure.suptitle(title)
    figure.colorbar(image, ax=list(grid), fraction=0.05, pad=0.02)
    return figure


def bars(series: Mapping[str, Mapping[str, float]], quantity: str, title: str) -> Figure:
    """Groups of bars side by side, one bar of a group per series.

    Args:
        series: name, such as a mode's -> value by group; groups stand in the order in which they first come.
        quantity: what a value is, for the axis.
        title: of the figure.
    """
    groups = list(dict.fromkeys(group for values in series.values() for group in values))
    room = max(0.8, 0.26 * (len(series) + 1))  # inches of a group
    figure, axes = _canvas(max(7.0, 2.0 + room * len(groups)), 4.4)
    width = 0.84 / max(len(series), 1)
    colors = _mode_colors(series)
    for i, (name, values) in enumerate(series.items()):
        centres = [x + (i - (len(series) - 1) / 2) * width for x in range(len(groups))]
        heights = [values.get(group, float("nan")) for group in groups]
        drawn = axes.bar(centres, heights, 0.9 * width, color=colors[name], label=name)
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
    _legend_beside(axes)
    return figure


def score_by_amount(curves: Mapping[str, Mapping[int, float]], quantity: str, amount: str, title: str) -> Figure:
    """A score in 0..1 over an amount, one line per mode.

    Args:
        curves: mode name -> amount -> value.
        quantity, amount: what the two are, for the axes.
        title: of the figure.
    """
    figure, axes = _canvas(7, 4.4)
    colors = _mode_colors(curves)
    for name, values in curves.items():
        amounts = sorted(values)
        style = BASELINES.get(name) or dict(color=colors[name])
        axes.plot(amounts, [values[x] for x in amounts], marker="o", markersize=5, label=name, **style)
    axes.set_xticks(sorted({x for values in curves.values() for x in values}))
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel(amount)
    axes.set_ylabel(quantity)
    axes.set_title(title)
    _legend_beside(axes)
    return figure


def mean_by_cell(records: Sequence[Record], name: str = "score") -> dict[tuple[int, float], float]:
    """Means of a field of records by ("length", "depth"), for `heat_maps`."""
    cells: dict[tuple[int, float], list[float]] = {}
    for record in records:
        cells.setdefault((record["length"], record["depth"]), []).append(record[name])
    return {cell: sum(values) / len(values) for cell, values in cells.items()}


def _heat_map(
    axes: Axes, cells: Mapping[tuple[int, float], float], lengths: Sequence[int], depths: Sequence[float]
) -> AxesImage:
    values = [[cells.get((length, depth), float("nan")) for length in lengths] for depth in depths]
    image = axes.imshow(values, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    for (length, depth), value in cells.items():
        color = "white" if abs(value - 0.5) > 0.38 else "#222222"
        spot = (lengths.index(length), depths.index(depth))
        axes.text(*spot, f"{value:.2g}", ha="center", va="center", fontsize=9, color=color)
    slant: dict[str, Any] = dict(rotation=45, ha="right") if len(lengths) > 3 else {}
    axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths], **slant)
    axes.set_yticks(range(len(depths)), [f"{depth:g} %" for depth in depths])
    # white lines between the cells
    axes.set_xticks([i + 0.5 for i in range(len(lengths) - 1)], minor=True)
    axes.set_yticks([i + 0.5 for i in range(len(depths) - 1)], minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return image


def _mode_colors(names: Iterable[str]) -> dict[str, Any]:
    """Baselines in grey, ratios in shades."""
    ratios = [name for name in names if name not in BASELINES]
    shades = colormaps["viridis"]
    shaded = {name: shades(0.2 + 0.65 * i / max(len(ratios) - 1, 1)) for i, name in enumerate(ratios)}
    return shaded | {name: style["color"] for name, style in BASELINES.items()}


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis where values lie far apart, so that close ones stay apart, with plain numbers on it."""
    if min(values) > 0 and max(values) > 3 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=7))
    axes.yaxis.set_major_formatter(ScalarFormatter())


def _legend_beside(axes: Axes) -> None:
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
