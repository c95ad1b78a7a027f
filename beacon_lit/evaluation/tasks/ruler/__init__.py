"""RULER, one concept per file."""

from beacon_lit.evaluation.tasks.ruler.task import Ruler

__all__ = ["Ruler"]
