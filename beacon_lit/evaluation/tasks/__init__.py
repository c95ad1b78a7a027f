"""The tasks, one file or package each."""

from beacon_lit.evaluation.tasks.generation import Generation
from beacon_lit.evaluation.tasks.longbench import LongBench, LongBenchV2
from beacon_lit.evaluation.tasks.mmlu import Mmlu
from beacon_lit.evaluation.tasks.msc import MultiSessionChat
from beacon_lit.evaluation.tasks.multi_turn import MultiTurnPerplexity
from beacon_lit.evaluation.tasks.passkey import Passkey
from beacon_lit.evaluation.tasks.perplexity import Perplexity

__all__ = [
    "Generation",
    "LongBench",
    "LongBenchV2",
    "Mmlu",
    "MultiSessionChat",
    "MultiTurnPerplexity",
    "Passkey",
    "Perplexity",
]
