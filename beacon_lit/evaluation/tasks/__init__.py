"""The tasks, one file or package each."""

from beacon_lit.evaluation.tasks.infinitebench import InfiniteBench
from beacon_lit.evaluation.tasks.longbench import LongBench, LongBenchV2
from beacon_lit.evaluation.tasks.passkey import Passkey
from beacon_lit.evaluation.tasks.perplexity import Perplexity
from beacon_lit.evaluation.tasks.ruler import Ruler
from beacon_lit.evaluation.tasks.topic import TopicRetrieval

__all__ = [
    "InfiniteBench",
    "LongBench",
    "LongBenchV2",
    "Passkey",
    "Perplexity",
    "Ruler",
    "TopicRetrieval",
]
