"""Figures of scores and costs."""

from beacon_lit.evaluation.plots.bars import bars
from beacon_lit.evaluation.plots.costs import costs_by_length
from beacon_lit.evaluation.plots.heat_maps import heat_maps, mean_by_cell
from beacon_lit.evaluation.plots.lines import perplexity_by_position, score_by_amount, score_by_depth, score_by_mode
from beacon_lit.evaluation.plots.style import mode_styles, titled

__all__ = [
    "bars",
    "costs_by_length",
    "heat_maps",
    "mean_by_cell",
    "mode_styles",
    "perplexity_by_position",
    "score_by_amount",
    "score_by_depth",
    "score_by_mode",
    "titled",
]
