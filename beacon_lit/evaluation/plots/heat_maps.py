"""Heat maps of scores by length and depth."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from beacon_lit.evaluation.task import Record, mean

MOST_PANELS = 4  # side by side
MOST_INCHES = 15  # a figure of this width can still be read on a page


def heat_maps(panels: Mapping[str, Mapping[tuple[int, float], float]], title: str) -> Figure:
    """Draw one heat map per panel of values in 0..1, from red to green, with the numbers.

    Args:
        panels: name -> (length, depth in per cent) -> value.
        title: title of the figure.
    """
    lengths = sorted({length for cells in panels.values() for length, _ in cells})
    depths = sorted({depth for cells in panels.values() for _, depth in cells})
    width = max(1.9, (0.55 if len(lengths) <= 10 else 0.42) * len(lengths) + 0.3)
    height = max(1.8, 0.4 * len(depths) + 0.9)
    rows = ceil(len(panels) / max(1, min(MOST_PANELS, int(MOST_INCHES / width))))
    columns = ceil(len(panels) / rows)
    figure = Figure(figsize=(width * columns + 1.6, height * rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (name, cells) in zip(grid.flat, panels.items(), strict=False):
        image = _heat_map(axes, cells, lengths, depths)
        axes.set_title(name, fontsize=11)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes in grid.flat[len(panels) - columns : len(panels)]:
        axes.tick_params(labelbottom=True)  # the lowest panel of each column
    figure.supylabel("depth", fontsize=10)
    figure.supxlabel("length of the prompt (tokens)", fontsize=10)
    figure.suptitle(title)
    figure.colorbar(image, ax=list(grid.flat[: len(panels)]), fraction=0.05, pad=0.02, aspect=30)
    return figure


def mean_by_cell(records: Sequence[Record], name: str = "score") -> dict[tuple[int, float], float]:
    """Average a field of records by ("length", "depth"), for `heat_maps`."""
    cells: dict[tuple[int, float], list[float]] = {}
    for record in records:
        cells.setdefault((record["length"], record["depth"]), []).append(record[name])
    return {cell: mean(values) for cell, values in cells.items()}


def _heat_map(
    axes: Axes, cells: Mapping[tuple[int, float], float], lengths: Sequence[int], depths: Sequence[float]
) -> AxesImage:
    values = [[cells.get((length, depth), float("nan")) for length in lengths] for depth in depths]
    image = axes.imshow(values, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    for (length, depth), value in cells.items():
        color = "white" if abs(value - 0.5) > 0.38 else "#222222"
        spot = (lengths.index(length), depths.index(depth))
        axes.text(*spot, f"{value:.2g}", ha="center", va="center", fontsize=9 if len(lengths) <= 10 else 8, color=color)
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
