"""Callbacks around training: evaluation, measurements, checkpoints, guards, and logs of data and settings."""

from beacon_lit.callbacks.best_checkpoint import BestCheckpoint
from beacon_lit.callbacks.checkpoint import Checkpoint, SaveAtEnd
from beacon_lit.callbacks.evaluation import EvaluationCallback
from beacon_lit.callbacks.hyperparameters import SettingsCallback
from beacon_lit.callbacks.nan_guard import NanGuard
from beacon_lit.callbacks.preemption import Preemption
from beacon_lit.callbacks.progress import ProgressBar
from beacon_lit.callbacks.ratio_loss import RatioLossCallback
from beacon_lit.callbacks.samples import SamplesCallback
from beacon_lit.callbacks.spike_skip import SpikeSkip
from beacon_lit.callbacks.throughput import ThroughputCallback

__all__ = [
    "BestCheckpoint",
    "Checkpoint",
    "EvaluationCallback",
    "NanGuard",
    "Preemption",
    "ProgressBar",
    "RatioLossCallback",
    "SamplesCallback",
    "SaveAtEnd",
    "SettingsCallback",
    "SpikeSkip",
    "ThroughputCallback",
]
