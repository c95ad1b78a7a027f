"""Compute token losses of a model on a batch. `objective=NAME` chooses one of the objectives; see `Objective`."""

from beacon_lit.objectives.attention import AttentionDistillation
from beacon_lit.objectives.distill import Distillation
from beacon_lit.objectives.lm import LanguageModeling
from beacon_lit.objectives.objective import Objective

__all__ = ["AttentionDistillation", "Distillation", "LanguageModeling", "Objective"]
