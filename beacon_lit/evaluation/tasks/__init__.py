"""The tasks, one file or package each."""

from beacon_lit.evaluation.tasks.generation import Generation
from beacon_lit.evaluation.tasks.infinitebench import InfiniteBench
from beacon_lit.evaluation.tasks.longbench import LongBench, LongBenchV2
from beacon_lit.evaluation.tasks.mmlu import Mmlu
from beacon_lit.evaluation.tasks.msc import MultiSessionChat
from beacon_lit.evaluation.tasks.multi_turn import MultiTurnPerplexity
from beacon_lit.evaluation.tasks.needle.several import MultiNeedle
from beacon_lit.evaluation.tasks.needle.single import Needle
from beacon_lit.evaluation.tasks.needle.turns import MultiTurnNeedle
from beacon_lit.evaluation.tasks.passkey import Passkey
from beacon_lit.evaluation.tasks.perplexity import Perplexity
from beacon_lit.evaluation.tasks.ruler import Ruler, RulerFiles, RulerKvpress
from beacon_lit.evaluation.tasks.topic import TopicRetrieval

__all__ = [
    "Generation",
    "InfiniteBench",
    "LongBench",
    "LongBenchV2",
    "Mmlu",
    "MultiNeedle",
    "MultiSessionChat",
    "MultiTurnNeedle",
    "MultiTurnPerplexity",
    "Needle",
    "Passkey",
    "Perplexity",
    "Ruler",
    "RulerFiles",
    "RulerKvpress",
    "TopicRetrieval",
]
