"""RULER, one concept per file."""

from beacon_lit.evaluation.tasks.ruler.generated import RulerFiles
from beacon_lit.evaluation.tasks.ruler.kvpress import RulerKvpress
from beacon_lit.evaluation.tasks.ruler.task import Ruler

__all__ = ["Ruler", "RulerFiles", "RulerKvpress"]
