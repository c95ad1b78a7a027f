"""Scores as lines: over ratios, positions, or amounts."""

from collections.abc import Mapping, Sequence
from math import ceil, exp, log
from statistics import fmean
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import StrMethodFormatter

from beacon_lit.evaluation.modes import split_baseline
from beacon_lit.evaluation.plots.style import MOST_POINTS, REFERENCES, canvas, legend_beside, mode_styles, scale
from beacon_lit.evaluation.task import ModeScores

RUN_COLORS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3")


def score_by_mode(runs: Mapping[str, ModeScores], quantity: str) -> Figure:
    """Draw one line per run and per method of the baselines over the ratios, dense and window-only as horizontal lines.

    Args:
        runs: label ("" for a single run) -> scores by mode; of all but the last run the ratios alone are drawn.
        quantity: name of the score, for the axis.
    """
    figure, axes = canvas(7, 4.4)
    newest = list(runs.values())[-1]
    names = [name for name in newest if name not in REFERENCES and not split_baseline(name)]
    for name, style in REFERENCES.items():
        if name in newest:
            axes.axhline(newest[name].value, label=f"{name}: {newest[name].value:.2f}", linewidth=1.5, **style)
    shown = list(runs)[-len(RUN_COLORS) :]
    for label, color in zip(shown, reversed(RUN_COLORS[: len(shown)]), strict=True):
        values = [runs[label][name].value if name in runs[label] else float("nan") for name in names]
        axes.plot(names, values, "o-", color=color, label=label or "beacons", markersize=7)
        for spot in zip(names, values, strict=True):
            text = axes.annotate(f"{spot[1]:.2f}", spot, (0, 8), textcoords="offset points", ha="center", fontsize=9)
            text.set(color=color, path_effects=[withStroke(linewidth=3, foreground="white")])
    for i, (method, line) in enumerate(_by_method(newest).items()):
        axes.plot([*line], [*line.values()], "s:", color=colormaps["Dark2"](i % 8), label=method, markersize=5)
    axes.margins(x=0.15, y=0.15)
    scale(axes, [score.value for scores in runs.values() for score in scores.values()])
    axes.set_ylabel(quantity)
    axes.set_title(f"{quantity.capitalize()} by ratio")
    legend_beside(axes)
    return figure


def _by_method(scores: ModeScores) -> dict[str, dict[str, float]]:
    """Return the values of baselines: method -> mode whose memory it has -> value."""
    methods: dict[str, dict[str, float]] = {}
    for name, score in scores.items():
        if split := split_baseline(name):
            methods.setdefault(split[0], {})[split[1]] = score.value
    return methods


def perplexity_by_position(curves: Mapping[str, Sequence[float]], tokens: Sequence[int], title: str) -> Figure:
    """Draw the perplexity along an excerpt, one line per mode.

    Args:
        curves: mode name -> perplexity of each window.
        tokens: scored tokens of each window.
        title: title of the figure.
    """
    figure, axes = canvas(7, 4.4)
    size = ceil(len(tokens) / MOST_POINTS)
    bins = [slice(start, start + size) for start in range(0, len(tokens), size)]
    ends = [1 + sum(tokens[: bin.stop]) for bin in bins]
    starts = [0, *ends[:-1]]
    centres = [(start + end) / 2 for start, end in zip(starts, ends, strict=True)]
    styles = mode_styles(list(curves))
    for name, values in curves.items():
        points = [_mean_perplexity(values[bin], tokens[bin]) for bin in bins]
        axes.plot(centres, points, marker="o", markersize=5, label=name, **styles[name])
    axes.set_xlim(0, ends[-1])
    if len(ends) <= 8:
        axes.set_xticks([0, *ends])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    scale(axes, [value for values in curves.values() for value in values])
    axes.set_xlabel(f"position in the text (tokens, one point per {f'{size} windows' if size > 1 else 'window'})")
    axes.set_ylabel("perplexity")
    axes.set_title(title)
    legend_beside(axes)
    return figure


def score_by_amount(curves: Mapping[str, Mapping[Any, float]], quantity: str, amount: str, title: str) -> Figure:
    """Draw a score in 0..1 over an amount, one line per mode.

    Args:
        curves: mode name -> amount -> value.
        quantity, amount: names of both, for the axes.
        title: title of the figure.
    """
    figure, axes = canvas(7, 4.4)
    styles = mode_styles(list(curves))
    for name, values in curves.items():
        amounts = sorted(values)
        axes.plot(amounts, [values[x] for x in amounts], marker="o", markersize=5, label=name, **styles[name])
    axes.set_xticks(sorted({x for values in curves.values() for x in values}))
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel(amount)
    axes.set_ylabel(quantity)
    axes.set_title(title)
    legend_beside(axes)
    return figure


def score_by_depth(panels: Mapping[str, Mapping[tuple[int, float], float]], title: str) -> Figure:
    """Draw the mean over all lengths of values in 0..1 at each depth, one line per mode.

    Args:
        panels: see `heat_maps`.
        title: title of the figure.
    """
    depths = sorted({depth for cells in panels.values() for _, depth in cells})
    curves = {
        name: {depth: fmean(value for (_, at), value in cells.items() if at == depth) for depth in depths}
        for name, cells in panels.items()
    }
    return score_by_amount(curves, "mean over all lengths", "depth (%)", title)


def _mean_perplexity(values: Sequence[float], tokens: Sequence[int]) -> float:
    """Average the perplexity of neighbouring windows, weighted by their tokens."""
    if len(values) == 1:
        return values[0]
    nll = sum(log(value) * count for value, count in zip(values, tokens, strict=True)) / sum(tokens)
    return exp(nll) if nll < 700 else float("inf")
