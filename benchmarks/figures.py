"""Draw seconds and memory of reading by length, for beacons and the dense backbone.

    python -m benchmarks.figures outputs/inference/read.json docs/images/inference.png

The command draws the figure again from the output of `benchmarks.inference`.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

PANELS = {"seconds": "seconds to read", "peak_gib": "peak memory, GiB", "cache_gib": "cache, GiB"}
COLORS = {"beacons": "#1f77b4", "dense": "#222222"}  # other models are in the tables alone


def draw(rows: Sequence[Mapping[str, Any]], device: str) -> Figure:
    """Draw one row of panels per shape, one panel per quantity of `PANELS`, one line per model.

    Args:
        rows: one or more rows of the part "read", including failed measurements.
        device: name of the device.
    """
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    panels = {key: label for key, label in PANELS.items() if any(row.get(key) for row in rows)} or PANELS
    figure = Figure(figsize=(4 * len(panels), 3.4 * len(shapes) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(shapes), len(panels), squeeze=False)
    for line, shape in zip(grid, shapes, strict=True):
        own = [row for row in rows if row["shape"] == shape]
        for axes, (key, label) in zip(line, panels.items(), strict=True):
            _panel(axes, own, key)
            axes.set_title(f"{shape}: {label}", fontsize=11)
    lines = [Line2D([], [], color=color, marker="o", markersize=5, label=model) for model, color in COLORS.items()]
    figure.legend(handles=lines, frameon=False, fontsize=9, ncols=len(lines), loc="outside lower right")
    figure.supxlabel("length of the text, tokens (K = 1,024)", fontsize=10)
    figure.suptitle(f"Reading a text: beacons at ratio {rows[0]['ratio']} beside the dense backbone ({device})")
    return figure


def save(rows: Sequence[Mapping[str, Any]], device: str, file: Path) -> None:
    """Draw into a file and make its folder; do nothing without rows to draw."""
    rows = [row for row in rows if "tokens" in row]  # rows without tokens report a model that could not be made
    if rows:
        file.parent.mkdir(parents=True, exist_ok=True)
        draw(rows, device).savefig(file, dpi=120)


def _panel(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    lengths = sorted({row["tokens"] for row in rows})
    values = {(row["model"], row["tokens"]): row[key] for row in rows if row.get(key)}
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for model, color in COLORS.items():
        known = [length for length in lengths if (model, length) in values]
        axes.plot(known, [values[model, length] for length in known], "o-", color=color, label=model, markersize=5)
        for length in known:
            others = [values.get((other, length), float("inf")) for other in COLORS if other != model]
            above = values[model, length] > max(others)
            _annotate(axes, (length, values[model, length]), above, color)
    for row in [row for row in rows if "error" in row]:
        what, spot = f"{row['model']}:\n{row['error'][:24]}", (row["tokens"], 0.99)
        above = dict(xycoords=axes.get_xaxis_transform(), ha="center", va="top")
        axes.annotate(what, spot, fontsize=8, color=COLORS.get(row["model"]), **above)
    axes.set_xticks(lengths, [_short(length) for length in lengths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.15, y=0.35)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _annotate(axes: Axes, spot: tuple[float, float], above: bool, color: str) -> None:
    """Write a point's value on the side away from the other line, and beside its own rising line."""
    offset, ha, va = ((-3, 4), "right", "bottom") if above else ((3, -4), "left", "top")
    text = f"{spot[1]:.3g}" if spot[1] < 100 else f"{spot[1]:.0f}"
    label = axes.annotate(text, spot, offset, textcoords="offset points", ha=ha, va=va, fontsize=9, color=color)
    label.set_path_effects([withStroke(linewidth=3, foreground="white")])


def _short(length: int) -> str:
    """Shorten 131072 to 128K and 1048576 to 1M; leave other numbers unchanged."""
    for unit, name in ((2**20, "M"), (2**10, "K")):
        if length % unit == 0:
            return f"{length // unit}{name}"
    return f"{length:,}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("read", type=Path, help="read.json of a benchmark")
    parser.add_argument("figure", type=Path)
    args = parser.parse_args()
    content = json.loads(args.read.read_text())
    save(content["rows"], content["environment"]["device"], args.figure)
