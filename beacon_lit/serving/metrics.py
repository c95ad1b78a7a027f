"""Counts, gauges and times, in Prometheus's text format. Any thread may change them."""

from collections.abc import Callable, Mapping
from threading import Lock

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_HELP = {
    "requests_total": "Finished requests by route and HTTP status",
    "cancelled_total": "Requests whose client went away",
    "prompt_tokens_total": "Tokens of all prompts and documents",
    "reused_tokens_total": "Tokens of prompts and documents that had been read for earlier requests",
    "generated_tokens_total": "Tokens of all answers",
    "evicted_documents_total": "Documents removed to stay within the size limit",
    "first_token_seconds": "Time from a request to the first token of its answer",
    "token_seconds": "Time between two tokens of an answer",
}


class Metrics:
    """All metrics of a server. `gauges` are asked for their values when they are shown."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: dict[str, dict[str, float]] = {name: {} for name in _HELP if name.endswith("_total")}
        self._buckets = {name: [0] * (len(_SECONDS) + 1) for name in _HELP if name.endswith("_seconds")}
        self._sums = dict.fromkeys(self._buckets, 0.0)
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def count(self, name: str, amount: float = 1, **labels: object) -> None:
        """Add to a counter."""
        key = _labels(labels)
        with self._lock:
            self._counts[name][key] = self._counts[name].get(key, 0) + amount

    def time(self, name: str, seconds: float) -> None:
        """Add a time to a histogram."""
        place = next((i for i, bound in enumerate(_SECONDS) if seconds <= bound), len(_SECONDS))
        with self._lock:
            self._buckets[name][place] += 1
            self._sums[name] += seconds

    def text(self) -> str:
        """Return all metrics in Prometheus's text format."""
        lines = []
        with self._lock:
            for name, values in self._counts.items():
                lines += _head(name, "counter", _HELP[name])
                lines += [f"beacon_{name}{key} {value:.15g}" for key, value in (values or {"": 0}).items()]
            for name, buckets in self._buckets.items():
                lines += _head(name, "histogram", _HELP[name])
                total = 0
                for bound, number in zip((*map(str, _SECONDS), "+Inf"), buckets, strict=True):
                    total += number
                    lines.append(f'beacon_{name}_bucket{{le="{bound}"}} {total}')
                lines += [f"beacon_{name}_sum {self._sums[name]:.15g}", f"beacon_{name}_count {total}"]
        for name, (about, value) in self.gauges.items():
            lines += [*_head(name, "gauge", about), f"beacon_{name} {value():.15g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP beacon_{name} {about}", f"# TYPE beacon_{name} {kind}"]


def _labels(labels: Mapping[str, object]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""
