"""Baselines: training-free methods of kvpress that compress the cache of the same backbone, on the same prompts."""

from beacon_lit.evaluation.baselines.baseline import Baseline
from beacon_lit.evaluation.baselines.peer import Peer
from beacon_lit.evaluation.baselines.settings import Kvpress

__all__ = ["Baseline", "Kvpress", "Peer"]
