"""What happens around training: evaluation on the way, throughput, a guard against NaN."""

from beacon_lit.callbacks.evaluation import EvaluationCallback
from beacon_lit.callbacks.nan_guard import NanGuard
from beacon_lit.callbacks.samples import SamplesCallback
from beacon_lit.callbacks.throughput import ThroughputCallback

__all__ = ["EvaluationCallback", "NanGuard", "SamplesCallback", "ThroughputCallback"]
