"""InfiniteBench, one concept per file."""

from beacon_lit.evaluation.tasks.infinitebench.task import InfiniteBench

__all__ = ["InfiniteBench"]
