"""The worker's thread: order, bounds, cancelling and closing, with jobs that need no model."""

import gc
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
import torch

from beacon_lit.arch import RowDecoding
from beacon_lit.serving.errors import ApiError
from beacon_lit.serving.inbox import Failed
from beacon_lit.serving.worker import Worker
from tests.arch.caches import model
from tests.arch.tiny import tokens
from tests.serving.servers import until

LM = model("llama", "select", params=("k", "v"))


class Counting:
    """A job of some chunks, which then is over, fails, or writes tokens."""

    def __init__(self, chunks: int = 1, error: Exception | None = None, writes: int = 0, gate: Any = None) -> None:
        self.chunks, self.error, self.count, self.gate = chunks, error, writes, gate
        self.events: list[Any] = []
        self.done, self.closed, self.job, self.token, self.total = 0, False, self, 5, 100
        self.read: int | None = None  # tokens in the cache at the end
        self.emit: Callable[[Any], None] = self.events.append

    def run(self) -> Generator[int, None, Any]:
        try:
            for _ in range(self.chunks):
                if self.gate is not None:
                    self.gate.wait(10)
                self.done += 1
                yield self.done
            if self.error is not None:
                raise self.error
            if not self.count:
                self.events.append("over")
                return None
            self.cache: Any = LM(tokens(1, 11), use_cache=True, ratios=2).cache
            return self
        finally:
            self.closed = True

    def take(self, logits: torch.Tensor) -> bool:
        self.count -= 1
        self.events.append(int(logits.argmax()))
        return self.count == 0

    def end(self, cache: Any) -> None:
        self.read = cache.seen_tokens
        self.events.append(self.read)


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker(RowDecoding(LM, 2, 2), waiting=2)
    yield made
    made.close()


def test_jobs_run_side_by_side_and_others_wait(worker: Worker) -> None:
    gate = threading.Event()
    jobs = [Counting(3, gate=gate) for _ in range(4)]
    for job in jobs[:2]:
        worker.submit(job)
    until(lambda: worker.reading == 2)
    for job in jobs[2:]:
        worker.submit(job)
    assert (worker.reading, worker.queued) == (2, 2)
    with pytest.raises(ApiError) as error:
        worker.submit(Counting())
    assert error.value.status == 429
    gate.set()
    until(lambda: all(job.events == ["over"] for job in jobs))


def test_answers_are_written_together(worker: Worker) -> None:
    jobs = [Counting(writes=count) for count in (3, 30, 7)]
    worker.submit(jobs[1])
    alone = LM(torch.tensor([[5]]), cache=LM(tokens(1, 11), use_cache=True, ratios=2).cache, ratios=2)
    worker.submit(jobs[0])
    until(lambda: jobs[0].events[-1:] == [11 + 3] and jobs[1].events[-1:] == [11 + 30])
    worker.submit(jobs[2])
    until(lambda: jobs[2].events[-1:] == [11 + 7])
    assert all(job.events[0] == int(alone.logits[0, -1].argmax()) for job in jobs)
    assert worker.rows == 0 and worker.decoding._decoding is None  # no buffers while nothing is written


def test_an_answer_waits_for_one_chunk_at_a_time() -> None:
    """However many others are read: the jobs take turns, a chunk of one for each token."""
    worker = Worker(RowDecoding(LM, 4, 2), waiting=2)
    gate, order = threading.Event(), []
    others = [Counting(6, gate=gate) for _ in range(3)]
    answer = Counting(chunks=0, writes=12)
    for number, job in enumerate(others):
        job.run = recorded(job, lambda number=number: order.append(number))
    take = answer.take
    answer.take = lambda logits: order.append("token") or take(logits)  # type: ignore[method-assign]
    try:
        for job in (*others, answer):
            until(lambda: worker.queued < 2)
            worker.submit(job)
        gate.set()
        until(lambda: answer.events[-1:] == [11 + 12] and all(job.events == ["over"] for job in others))
    finally:
        worker.close()
    between = order[order.index("token") : len(order) - order[::-1].index("token")]
    read = [number for number in between if number != "token"]
    assert len(read) >= 9 and all(len({*read[i : i + 3]}) == 3 for i in range(7))
    assert all(between[i] == "token" or between[i + 1] == "token" for i in range(len(between) - 1))


def recorded(job: Counting, record: Callable[[], None]) -> Callable[[], Generator[int, None, Any]]:
    """The job's `run`, which records every chunk."""
    chunks = job.run

    def run() -> Generator[int, None, Any]:
        for done in chunks():
            record()
            yield done

    return run


def test_a_job_is_cancelled_at_any_time(worker: Worker) -> None:
    gate = threading.Event()
    reading, writing = Counting(10**9), Counting(writes=10**9)
    for job in (reading, writing):
        worker.submit(job)
    until(lambda: writing.events and reading.done)
    waiting = Counting(gate=gate)
    worker.submit(waiting)
    for job in (waiting, reading, writing):
        worker.cancel(job)
    until(lambda: reading.closed and writing.read and not (worker.queued or worker.reading or worker.rows))
    assert waiting.done == 0 and not waiting.events and writing.read > 11
    done = Counting()
    worker.submit(done)
    until(lambda: done.events)
    worker.cancel(done)  # without effect
    worker.submit(again := Counting())
    until(lambda: again.events)
    left = weakref.ref(writing)
    writing = job = None  # type: ignore[assignment]
    until(lambda: gc.collect() is not None and left() is None)  # nothing holds a job that has gone


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ApiError(404, "no such file"), 404, "no such file"),
        (ValueError("ratio=3 is not allowed"), 400, "ratio=3 is not allowed"),
        (RuntimeError("details"), 500, "internal error"),
        (torch.OutOfMemoryError("details"), 503, "out of memory"),
    ],
)
def test_errors(worker: Worker, error: Exception, status: int, said: str) -> None:
    freed: list[int] = []
    worker.out_of_memory = lambda: freed.append(1)
    other, failing = Counting(writes=20), Counting(2, error)
    worker.submit(other)
    worker.submit(failing)
    until(lambda: failing.events and other.count == 0)
    (failed,) = failing.events
    assert isinstance(failed, Failed) and isinstance(failed.error, ApiError)
    assert failed.error.status == status and said in str(failed.error)
    assert freed == ([1] if status == 503 else [])


@pytest.mark.parametrize("cancelled", [True, False])
def test_an_answer_whose_cache_cannot_be_kept_harms_no_other(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    worker.submit(other := Counting(writes=10**9))
    until(lambda: other.events)
    freed: list[int] = []
    worker.out_of_memory = lambda: freed.append(1)

    def no_memory(*args: Any) -> None:
        raise torch.OutOfMemoryError("details")

    with monkeypatch.context() as patch:
        patch.setattr(type(worker.decoding._decoding), "cache_of", no_memory)
        worker.submit(writing := Counting(writes=10**9 if cancelled else 3))
        until(lambda: writing.events)
        if cancelled:
            worker.cancel(writing)
        until(lambda: freed and worker.rows == 1)
    worker.submit(again := Counting(writes=3))  # the row is free
    until(lambda: again.events[-1:] == [11 + 3])
    assert not any(isinstance(event, Failed) for event in other.events) and worker.rows == 1


def test_an_answer_that_cannot_go_on_harms_no_other(worker: Worker) -> None:
    class Failing(Counting):
        def take(self, logits: torch.Tensor) -> bool:
            raise RuntimeError("details")

    worker.submit(other := Counting(writes=10**9))
    until(lambda: other.events)
    worker.submit(failing := Failing(writes=5))
    until(lambda: any(isinstance(event, Failed) for event in failing.events))
    written = len(other.events)
    until(lambda: len(other.events) > written)
    assert not any(isinstance(event, Failed) for event in other.events) and worker.rows == 1


def test_closing_ends_all_jobs() -> None:
    worker = Worker(RowDecoding(LM, 2, 2), waiting=2)
    jobs = [Counting(10**9), Counting(writes=10**9), Counting()]
    for job in jobs:
        worker.submit(job)
        until(lambda: worker.queued == 0 or job is jobs[2])  # noqa: B023
    until(lambda: jobs[1].events and jobs[0].done)
    worker.close()
    for job in jobs:
        assert isinstance(job.events[-1], Failed) and job.events[-1].error.status == 503  # type: ignore[attr-defined]
    assert jobs[0].closed and not worker._thread.is_alive()
    with pytest.raises(ApiError, match="stopping"):
        worker.submit(Counting())
