"""What is trained for: a model and a batch -> token losses. Chosen by `objective=NAME`, see `Objective`."""

from beacon_lit.objectives.attention import AttentionDistillation
from beacon_lit.objectives.distill import Distillation
from beacon_lit.objectives.lm import LanguageModeling
from beacon_lit.objectives.objective import Objective

__all__ = ["AttentionDistillation", "Distillation", "LanguageModeling", "Objective"]
