"""Measure how long a run waits for data or pauses, from the events that Lightning reports to its profiler."""

import re
from collections import defaultdict
from time import perf_counter

from lightning.pytorch.profilers import Profiler


class Stopwatch(Profiler):
    """Add up the seconds of chosen actions; pass every action on to the trainer's own profiler.

    Args:
        inner: the trainer's own profiler.
        actions: name -> regular expression of the actions that count under this name.

    Attributes:
        seconds: seconds so far, by name.
    """

    def __init__(self, inner: Profiler, actions: dict[str, str]) -> None:
        self.inner = inner
        self.actions = {name: re.compile(pattern) for name, pattern in actions.items()}
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: dict[str, float] = {}
        super().__init__()

    def start(self, action_name: str) -> None:
        """Start the clock of an action."""
        self.inner.start(action_name)
        if any(pattern.search(action_name) for pattern in self.actions.values()):
            self._running[action_name] = perf_counter()

    def stop(self, action_name: str) -> None:
        """Stop the clock of an action."""
        if action_name in self._running:
            seconds = perf_counter() - self._running.pop(action_name)
            for name, pattern in self.actions.items():
                self.seconds[name] += seconds if pattern.search(action_name) else 0
        self.inner.stop(action_name)
