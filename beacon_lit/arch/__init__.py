"""Tokens -> windows -> attention over memory -> loss. Depends on torch and transformers only."""

from beacon_lit.arch import backbones  # noqa: F401  registers the families
from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.config import BeaconConfig
from beacon_lit.arch.model import BeaconLM
from beacon_lit.arch.ratio import Draw, Ratio, Ratios, adapt_ratio, longest
from beacon_lit.arch.teacher import Teacher

__all__ = ["BeaconCache", "BeaconConfig", "BeaconLM", "Draw", "Ratio", "Ratios", "Teacher", "adapt_ratio", "longest"]
