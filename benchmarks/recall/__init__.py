"""Measure recall of facts hidden in noise: a task that tiny models learn from scratch and that is graded exactly."""

from benchmarks.recall.accuracy import METHODS, Accuracy, measure
from benchmarks.recall.task import Recall
from benchmarks.recall.training import Study, build, train

__all__ = ["METHODS", "Accuracy", "Recall", "Study", "build", "measure", "train"]
