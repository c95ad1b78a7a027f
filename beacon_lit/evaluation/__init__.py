"""Model -> scores: tasks, the modes that they compare, and the runner that writes tables, metrics and figures."""

from beacon_lit.evaluation.baselines import Baseline, Kvpress, Peer
from beacon_lit.evaluation.execution import execute
from beacon_lit.evaluation.journal import Journal
from beacon_lit.evaluation.modes import Mode, choose_modes, parse_mode
from beacon_lit.evaluation.prompts import Prompt, make_options, make_prompt
from beacon_lit.evaluation.ranks import Ranks
from beacon_lit.evaluation.reader import Reader
from beacon_lit.evaluation.requests import Answer, Converse, Generate, Request, ScoreOptions, ScoreText
from beacon_lit.evaluation.results import flat_metrics, make_figures, save
from beacon_lit.evaluation.runner import rescore, run
from beacon_lit.evaluation.table import score_table
from beacon_lit.evaluation.task import Example, Score, Subject, Task, mean_score
from beacon_lit.evaluation.tasks import Passkey, Perplexity

__all__ = [
    "Answer",
    "Baseline",
    "Converse",
    "Example",
    "Generate",
    "Journal",
    "Kvpress",
    "Mode",
    "Passkey",
    "Peer",
    "Perplexity",
    "Prompt",
    "Ranks",
    "Reader",
    "Request",
    "Score",
    "ScoreOptions",
    "ScoreText",
    "Subject",
    "Task",
    "choose_modes",
    "execute",
    "flat_metrics",
    "make_figures",
    "make_options",
    "make_prompt",
    "mean_score",
    "parse_mode",
    "rescore",
    "run",
    "save",
    "score_table",
]
