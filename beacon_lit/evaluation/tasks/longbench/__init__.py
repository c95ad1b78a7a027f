"""LongBench v1, with its split by length (LongBench-E), and LongBench v2."""

from beacon_lit.evaluation.tasks.longbench.v1 import LongBench
from beacon_lit.evaluation.tasks.longbench.v2 import LongBenchV2

__all__ = ["LongBench", "LongBenchV2"]
