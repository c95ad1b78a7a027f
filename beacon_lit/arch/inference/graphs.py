"""Run the same device work again and again, on a GPU as CUDA graphs."""

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

EAGER_STEPS = 2  # runs before a CUDA graph is captured; they warm up what it captures


class Graphs:
    """Runs work whose tensors stay in place, each kind as a graph of its own once it has warmed up.

    Args:
        captures: whether a CUDA graph can capture the work. Otherwise it always runs as it is.
    """

    def __init__(self, captures: bool) -> None:
        self.captures = captures
        self._runs: Counter[int] = Counter()
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __len__(self) -> int:
        """Return the number of graphs."""
        return len(self._graphs)

    def __contains__(self, kind: int) -> bool:
        """Whether this kind of work has a graph."""
        return kind in self._graphs

    def clear(self) -> None:
        """Forget all graphs, as tensors are at other places."""
        self._graphs.clear()

    def run(self, kind: int, work: Callable[[], Tensor]) -> Tensor:
        """Do the work, which is the same whenever the kind is, and return its result; a graph's is always in place."""
        if not self.captures or self._runs[kind] < EAGER_STEPS:
            self._runs[kind] += 1
            return work()
        if kind not in self._graphs:
            self._graphs[kind] = _capture(work)
        graph, result = self._graphs[kind]
        graph.replay()
        return result


def _capture(work: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Capture work. `torch.cuda.graph` would free cached memory, which the next closing window needs."""
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), _without_garbage_collection():  # which may wait for a step of another decoding
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            result = work()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(side)
    return graph, result


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Collect no garbage within this context."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
