"""The tasks, one file or package each."""

from beacon_lit.evaluation.tasks.longbench import LongBench, LongBenchV2
from beacon_lit.evaluation.tasks.needle.several import MultiNeedle
from beacon_lit.evaluation.tasks.needle.single import Needle
from beacon_lit.evaluation.tasks.needle.turns import MultiTurnNeedle
from beacon_lit.evaluation.tasks.passkey import Passkey
from beacon_lit.evaluation.tasks.perplexity import Perplexity

__all__ = ["LongBench", "LongBenchV2", "MultiNeedle", "MultiTurnNeedle", "Needle", "Passkey", "Perplexity"]
