"""What happens around training: evaluation on the way, throughput, checkpoints, guards."""

from beacon_lit.callbacks.checkpoint import Checkpoint
from beacon_lit.callbacks.evaluation import EvaluationCallback
from beacon_lit.callbacks.nan_guard import NanGuard
from beacon_lit.callbacks.preemption import Preemption
from beacon_lit.callbacks.samples import SamplesCallback
from beacon_lit.callbacks.save_at_end import SaveAtEnd
from beacon_lit.callbacks.throughput import ThroughputCallback

__all__ = [
    "Checkpoint",
    "EvaluationCallback",
    "NanGuard",
    "Preemption",
    "SamplesCallback",
    "SaveAtEnd",
    "ThroughputCallback",
]
