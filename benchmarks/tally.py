"""Collect what many clients saw: statuses, unexpected results, times, tokens, and answers that must stay the same."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import linear_regression, quantiles
from typing import Any

SHOWN = 50  # unexpected results that are described


class Tally:
    """Counts and times. Any thread may change them.

    Args:
        rounding: whether rounding may change an answer, so that another one is no failure.

    Attributes:
        statuses: requests by route and status.
        unexpected: descriptions of the first unexpected results.
        failures: number of unexpected results.
        tokens: tokens by kind: "prompt", "cached" (a part of them) and "completion".
        times: milliseconds by kind.
        compared, differing: greedy answers that were compared with an earlier one, and those that differ.
    """

    def __init__(self, rounding: bool = False) -> None:
        self.rounding = rounding
        self._lock = threading.Lock()
        self._answers: dict[str, str] = {}
        self.statuses: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self.failures = 0
        self.tokens: Counter[str] = Counter()
        self.times: dict[str, list[float]] = {"first_token_ms": [], "token_ms": [], "upload_ms": []}
        self.compared = self.differing = 0

    def request(self, route: str, status: int | str) -> None:
        """Count a request."""
        with self._lock:
            self.statuses[f"{route} {status}"] += 1

    def wrong(self, what: str) -> None:
        """Count something unexpected."""
        with self._lock:
            self.failures += 1
            if len(self.unexpected) < SHOWN:
                self.unexpected.append(what)

    def used(self, usage: Mapping[str, Any]) -> None:
        """Count the tokens of a response."""
        with self._lock:
            self.tokens["prompt"] += usage["prompt_tokens"]
            self.tokens["cached"] += usage["prompt_tokens_details"]["cached_tokens"]
            self.tokens["completion"] += usage["completion_tokens"]

    def read(self, tokens: int) -> None:
        """Count the tokens of an uploaded document."""
        with self._lock:
            self.tokens["prompt"] += tokens

    def time(self, name: str, seconds: float) -> None:
        """Add a time."""
        with self._lock:
            self.times[name].append(1000 * seconds)

    def same(self, question: str, answer: str) -> None:
        """Compare a greedy answer with the first one to the same question."""
        with self._lock:
            self.compared += question in self._answers
            first = self._answers.setdefault(question, answer)
            self.differing += first != answer
        if first != answer and not self.rounding:
            self.wrong(f"another answer to {question[-120:]!r}: first {first!r}, now {answer!r}")

    def percentiles(self) -> dict[str, dict[str, float]]:
        """Return count, median, 95th percentile and maximum of each kind of time, in milliseconds."""
        with self._lock:
            return {name: spread(times) for name, times in self.times.items() if times}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return count, median, 95th percentile and maximum."""
    cuts = quantiles(values, n=20, method="inclusive") if len(values) > 1 else [values[0]] * 19
    return {"count": len(values), "p50": cuts[9], "p95": cuts[18], "max": max(values)}


def slope(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Return the growth per hour of the straight line with the least squares; 0 for fewer than two samples."""
    return 3600 * linear_regression(seconds, values).slope if len({*seconds}) > 1 else 0.0
