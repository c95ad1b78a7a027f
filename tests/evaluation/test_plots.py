from math import exp

import pytest

from beacon_lit.evaluation import Score
from beacon_lit.evaluation.plots import (
    costs_by_length,
    heat_maps,
    perplexity_by_position,
    score_by_depth,
    score_by_mode,
)
from beacon_lit.evaluation.plots.style import mode_styles

pytestmark = pytest.mark.usefixtures("drawn_figures")


def lines(axes):
    return {line.get_label(): [*zip(line.get_xdata(), line.get_ydata(), strict=True)] for line in axes.lines}


def panels(count, lengths=(10, 20)):
    return {f"ratio {i}": {(length, 50.0): i / count for length in lengths} for i in range(count)}


@pytest.mark.parametrize(
    ("count", "lengths", "rows", "columns"), [(4, 2, 1, 4), (5, 2, 2, 3), (6, 2, 2, 3), (6, 16, 3, 2), (3, 30, 3, 1)]
)
def test_heat_maps_wrap_before_they_are_too_wide_to_read(count, lengths, rows, columns):
    figure = heat_maps(panels(count, range(lengths)), "accuracy")
    maps = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in maps] == [f"ratio {i}" for i in range(count)]
    shape = maps[0].get_subplotspec().get_gridspec()
    assert (shape.nrows, shape.ncols) == (rows, columns) and figure.get_figwidth() < 17
    figure.canvas.draw()
    labelled = [axes.xaxis.get_tick_params()["labelbottom"] for axes in maps]
    assert labelled == [False] * (count - columns) + [True] * columns


def test_windows_beyond_sixteen_are_joined_by_their_tokens():
    nll, tokens = [1.0, 2.0, *[3.0] * 31], [9, *[10] * 32]
    figure = perplexity_by_position({"dense": [exp(value) for value in nll]}, tokens, "perplexity")
    points = lines(figure.axes[0])["dense"]
    assert len(points) == 11  # of three windows each
    assert points[0] == (15, pytest.approx(exp((9 * 1 + 10 * 2 + 10 * 3) / 29)))
    assert "3 windows" in figure.axes[0].get_xlabel()
    diverged = perplexity_by_position({"dense": [float("inf")] * 33}, tokens, "perplexity")
    assert lines(diverged.axes[0])["dense"][0][1] == float("inf")


def test_baselines_are_lines_over_the_ratios_whose_memory_they_have():
    values = {
        "dense": 1,
        "ratio 2": 0.8,
        "adapt-64": 0.7,
        "kvzip 2": 0.6,
        "kvzip 2 nominal": 0.5,
        "kvzip adapt-64": 0.4,
    }
    figure = score_by_mode({"": {mode: Score(value) for mode, value in values.items()}}, "accuracy")
    found = lines(figure.axes[0])
    assert found["beacons"] == [("ratio 2", 0.8), ("adapt-64", 0.7)]
    assert found["kvzip"] == [("ratio 2", 0.6), ("adapt-64", 0.4)] and found["kvzip nominal"] == [("ratio 2", 0.5)]
    styles = mode_styles(list(values))
    assert [mode for mode in values if styles[mode].get("linestyle") == ":"] == list(values)[3:]
    assert len({str(style["color"]) for style in styles.values()}) == len(values)


def test_score_by_depth_is_the_mean_over_lengths():
    cells = {(10, 0.0): 1.0, (20, 0.0): 0.0, (10, 50.0): 1.0, (20, 50.0): 1.0}
    [axes] = score_by_depth({"dense": cells}, "accuracy").axes
    assert lines(axes) == {"dense": [(0, 0.5), (50, 1)]}


def record(tokens, seconds):
    return {"tokens_in": tokens, "seconds": seconds, "cache_bytes": tokens * 2**20}


def test_costs_are_medians_of_examples_of_one_length():
    records = {"dense": [record(10, 1), record(10, 9), record(10, 2), record(20, 4)], "ratio 2": [record(10, 1)]}
    figure = costs_by_length(records, "passkey")
    assert figure.get_suptitle() == "Costs by length: passkey"
    seconds, cache = (lines(axes) for axes in figure.axes)
    assert seconds == {"dense": [(10, 2), (20, 4)], "ratio 2": [(10, 1)]}
    assert cache["dense"] == [(10, 10), (20, 20)]


def test_costs_of_many_lengths_are_grouped_from_the_first_to_the_last():
    figure = costs_by_length({"dense": [record(length, length / 10) for length in range(100, 5100, 7)]})
    points = lines(figure.axes[0])["dense"]
    assert 10 <= len(points) <= 17 and points[0][0] == 100 and points[-1][0] > 4000
    assert all(seconds == pytest.approx(tokens / 10) for tokens, seconds in points)
    figure.canvas.draw()
