"""Model -> scores: tasks, the modes they compare, and the runner that writes tables, metrics and figures."""

from beacon_lit.evaluation.modes import Mode, choose_modes, parse_mode
from beacon_lit.evaluation.passkey import Passkey
from beacon_lit.evaluation.perplexity import Perplexity
from beacon_lit.evaluation.runner import flat_metrics, make_figures, run, save
from beacon_lit.evaluation.table import score_table
from beacon_lit.evaluation.task import Score, Subject, Task

__all__ = [
    "Mode",
    "Passkey",
    "Perplexity",
    "Score",
    "Subject",
    "Task",
    "choose_modes",
    "flat_metrics",
    "make_figures",
    "parse_mode",
    "run",
    "save",
    "score_table",
]
