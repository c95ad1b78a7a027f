"""Each kind of work has a graph of its own, made once it has warmed up; here on a CPU, with graphs that run anew."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from beacon_lit.arch.inference import graphs
from beacon_lit.arch.inference.decode import Decoding
from beacon_lit.arch.inference.decode_static import StaticDecoding
from beacon_lit.arch.inference.graphs import EAGER_STEPS, Graphs
from tests.arch.caches import assert_same, model
from tests.arch.tiny import assert_close, tokens
from tests.arch.ways import small_steps


class Again:
    """Stands for a CUDA graph: a replay writes to the tensor that the capture returned."""

    def __init__(self, work: Callable[[], Tensor]) -> None:
        self.work, self.result = work, work()

    def replay(self) -> None:
        self.result.copy_(self.work())


@pytest.fixture(autouse=True)
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Again]:
    """All that has been captured."""
    made: list[Again] = []

    def capture(work: Callable[[], Tensor]) -> tuple[Again, Tensor]:
        made.append(Again(work))
        return made[-1], made[-1].result

    monkeypatch.setattr(graphs, "_capture", capture)
    return made


def test_work_is_captured_once_it_has_warmed_up(captured: list[Again]) -> None:
    runs, counter = Graphs(True), iter(range(100))
    for _ in range(EAGER_STEPS):
        runs.run(1, lambda: torch.tensor(next(counter)))
    assert 1 not in runs and not captured
    results = [runs.run(1, lambda: torch.tensor(next(counter))) for _ in range(3)]
    assert 1 in runs and len(runs) == len(captured) == 1
    assert results[0] is results[2] is captured[0].result  # in place
    runs.run(2, lambda: torch.tensor(0))
    assert 2 not in runs and len(runs) == 1
    runs.clear()
    assert len(runs) == 0
    runs.run(1, lambda: torch.tensor(0))  # it is warm
    assert 1 in runs and len(captured) == 2


def test_nothing_is_captured_that_cannot_be(captured: list[Again]) -> None:
    runs = Graphs(False)
    for number in range(5):
        assert runs.run(1, lambda number=number: torch.tensor(number)) == number
    assert not captured and 1 not in runs


@pytest.mark.parametrize("unfinished, kinds", [("raw", 1), ("beacons", 2)])
@torch.no_grad()
def test_decoding_has_a_graph_without_beacons_and_one_with(unfinished: str, kinds: int, captured: list[Again]) -> None:
    """Both read from and write to the same buffers, and are made anew when these grow."""
    lm = model(unfinished=unfinished)
    cache, ids = lm.compress(tokens(2, 11)), tokens(2, 60)
    with small_steps(windows=2, slots=8):
        decoding = StaticDecoding(lm, cache, None, None, None)
        decoding.graphs = Graphs(True)
        found = torch.cat([decoding.step(column).clone() for column in ids.split(1, 1)], 1)
    called = Decoding(lm, cache, None, None, None)
    assert_close(found, torch.cat([called.step(column) for column in ids.split(1, 1)], 1), 1e-9)
    assert_same(decoding.cache(), called.cache())
    assert len(decoding.graphs) == kinds < len(captured)
