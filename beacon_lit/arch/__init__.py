"""Tokens -> windows -> attention over memory -> loss. Depends on torch and transformers only."""

from beacon_lit.arch import backbones  # noqa: F401  registers the families
from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.call import plan_call
from beacon_lit.arch.config import BeaconConfig, check_ratio
from beacon_lit.arch.fingerprint import check_cache
from beacon_lit.arch.model import BeaconLM
from beacon_lit.arch.ratio import Draw, Ratio, Ratios
from beacon_lit.arch.teacher import Teacher

__all__ = [
    "BeaconCache", "BeaconConfig", "BeaconLM", "Draw", "Ratio", "Ratios", "Teacher", "check_cache", "check_ratio",
    "plan_call",
]  # fmt: skip
