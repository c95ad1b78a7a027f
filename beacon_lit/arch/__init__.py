"""Tokens -> windows -> attention over memory -> loss. Depends on torch and transformers only.

The names here are all that other packages import. Inside, imports point one way:

    families -> model -> scoring, inference -> checkpoint -> core -> cache -> nn, plan -> config -> placements, ratios
"""

from beacon_lit.arch import families  # noqa: F401  registers the families
from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.config import BeaconConfig, check_ratio
from beacon_lit.arch.inference.cache_names import cache_of
from beacon_lit.arch.inference.decode_rows import RowDecoding
from beacon_lit.arch.inference.fingerprint import check_cache
from beacon_lit.arch.model import BeaconLM
from beacon_lit.arch.nn.observe import Observe
from beacon_lit.arch.output import BeaconOutput
from beacon_lit.arch.plan.ratios import adapt_ratio, longest
from beacon_lit.arch.ratios import Draw, Ratio, Ratios
from beacon_lit.arch.scoring import Teacher

__all__ = [
    "BeaconCache", "BeaconConfig", "BeaconLM", "BeaconOutput", "Draw", "Observe", "Ratio", "Ratios", "RowDecoding",
    "Teacher", "adapt_ratio", "cache_of", "check_cache", "check_ratio", "longest",
]  # fmt: skip
