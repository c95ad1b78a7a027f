"""The thread that runs the model. Jobs wait in a bounded queue; a few at a time are read, and written in one batch."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Protocol

import torch
from torch import Tensor

from beacon_lit.arch import BeaconCache, RowDecoding
from beacon_lit.serving.errors import ApiError
from beacon_lit.serving.inbox import Failed

log = logging.getLogger(__name__)


class Row(Protocol):
    """An answer that is being written.

    Attributes:
        job: its job.
        cache: one row, which has read all but `token`.
        token: the last token id, to be read next.
        total: tokens of prompt and answer, at most.
    """

    job: Any
    cache: BeaconCache
    token: int
    total: int

    def take(self, logits: Tensor) -> bool:
        """Choose the next `token` from (V,) logits, and return whether it is the last."""

    def end(self, cache: BeaconCache) -> None:
        """Take the cache at the end."""


class Job(Protocol):
    """Something that needs the model.

    Attributes:
        emit: called with the job's events.
    """

    emit: Callable[[Any], None]

    def run(self) -> Generator[int, None, Any]:
        """Do the job, and pause after every chunk of work.

        Returns:
            a `Row` if an answer is to be written, else None.

        Raises:
            ApiError: what the client did wrong.
        """


class Worker:
    """Runs jobs on a thread of its own.

    Args:
        decoding: the batch of answers; as many jobs as it has rows are worked on at a time.
        waiting: most jobs that wait; a further one is refused.
        out_of_memory: called when the device is out of memory, to free some.
    """

    def __init__(self, decoding: RowDecoding, waiting: int, out_of_memory: Callable[[], None] = lambda: None) -> None:
        self.decoding, self.waiting, self.out_of_memory = decoding, waiting, out_of_memory
        self._changed = threading.Condition()
        self._queue: deque[Job] = deque()
        self._cancelled: set[Job] = set()
        self._closed = False
        self._reading: dict[Job, Generator[int, None, Any]] = {}
        self._rows: dict[int, Row] = {}
        self._thread = threading.Thread(target=self._run, name="beacon-worker", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        return len(self._queue)

    @property
    def reading(self) -> int:
        """Jobs that are being read."""
        return len(self._reading)

    @property
    def rows(self) -> int:
        """Answers that are being written."""
        return len(self._rows)

    def submit(self, job: Job) -> None:
        """Add a job to the queue.

        Raises:
            ApiError: 429, the queue is full; 503, the server is stopping.
        """
        with self._changed:
            if self._closed:
                raise ApiError(503, "the server is stopping", "stopping")
            if len(self._queue) >= self.waiting:
                raise ApiError(429, f"{self.waiting} requests are waiting already; try again later", "queue_full")
            self._queue.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Stop a job, if it has not ended, and free its place."""
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)
            else:
                self._cancelled.add(job)
                self._changed.notify()

    def close(self) -> None:
        """Stop all jobs and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @torch.no_grad()
    def _run(self) -> None:
        while self._admit():
            self._turn()
        stopped = [*self._queue, *self._reading, *(row.job for row in self._rows.values())]
        for chunks in self._reading.values():
            chunks.close()
        for row in list(self._rows):
            self._leave(row)
        for job in stopped:
            job.emit(Failed(ApiError(503, "the server is stopping", "stopping")))
        self._queue.clear()
        self._reading = {}
        self.decoding.clear()

    def _turn(self) -> None:
        """Do a chunk of the work of one job, taking jobs in turns, and write a token of every answer."""
        if self._reading:
            job = next(iter(self._reading))
            self._reading[job] = self._reading.pop(job)  # now the last in the order
            self._advance(job)
        if self._rows:
            self._decode()

    def _admit(self) -> bool:
        """Take jobs from the queue, and wait for one if there is nothing to do; return False once closed."""
        with self._changed:
            while not (self._queue or self._reading or self._rows or self._closed):
                self._cancelled.clear()  # they had ended
                self._changed.wait()
            cancelled, self._cancelled = self._cancelled, set()
            while self._queue and len(self._reading) + len(self._rows) < self.decoding.size:
                job = self._queue.popleft()
                self._reading[job] = job.run()
        for job in cancelled:
            self._drop(job)
        return not self._closed

    def _drop(self, job: Job) -> None:
        chunks = self._reading.pop(job, None)
        if chunks is not None:
            chunks.close()
        for row, writing in list(self._rows.items()):
            if writing.job is job:
                self._leave(row)

    def _advance(self, job: Job) -> None:
        """Do the next chunk of a job's work."""
        try:
            next(self._reading[job])
        except StopIteration as end:
            del self._reading[job]
            if end.value is not None:
                self._join(end.value)
        except Exception as error:
            del self._reading[job]
            self._fail(job, error)

    def _join(self, row: Row) -> None:
        try:
            self._rows[self.decoding.join(row.cache, row.total)] = row
        except Exception as error:
            self._fail(row.job, error)

    def _decode(self) -> None:
        """Write one token of every answer."""
        try:
            found = self.decoding.step({row: writing.token for row, writing in self._rows.items()})
        except Exception as error:
            failed, self._rows = list(self._rows.values()), {}
            self.decoding.clear()
            for writing in failed:
                self._fail(writing.job, error)
            return
        for row, logits in found.items():
            self._take(row, logits)

    def _take(self, row: int, logits: Tensor) -> None:
        """Give an answer its next token. An error ends this answer alone."""
        try:
            last = self._rows[row].take(logits)
        except Exception as error:
            self._fail(self._rows[row].job, error)
            last = True
        if last:
            self._leave(row)

    def _leave(self, row: int) -> None:
        """End an answer. Without room for its cache, it is whole all the same; only what was read is lost."""
        writing = self._rows.pop(row)
        try:
            writing.end(self.decoding.leave(row))
        except Exception as error:
            self._fail(writing.job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        if isinstance(error, torch.OutOfMemoryError):
            self.out_of_memory()
            error = ApiError(503, "out of memory; try again later, or a shorter prompt", "out_of_memory")
        elif isinstance(error, ValueError):  # a user's mistake, in words for the user
            error = ApiError(400, str(error))
        elif not isinstance(error, ApiError):
            log.error("a request failed", exc_info=error)
            error = ApiError(500, "internal error")
        job.emit(Failed(error))
