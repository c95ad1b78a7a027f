"""Processes that work side by side; the results keep the order of the tasks."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from multiprocessing.connection import wait
from time import monotonic
from typing import Any, Generic, TypeVar

from beacon_lit.data.checks import check_int

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 4  # tasks per process that are read ahead
_PATIENCE = 3.0  # seconds of work before other processes are started, which takes seconds as well


class Workers(AbstractContextManager, Generic[T, R]):
    """Processes that do one kind of work, and end with this process.

    Short work is done in this process: others are started after some seconds, and this process works until the first of
    them is ready.

    Args:
        work: done for each task; tasks, results and `work` itself are pickled.
        count: most processes; 1 = this process alone.
        setting: the setting that gives the count, for errors.
    """

    def __init__(self, work: Callable[[T], R], count: int, setting: str = "workers") -> None:
        check_int(setting, count, 1)
        self._work, self._count, self._setting = work, count, setting
        self._start = monotonic()
        self._pool: ProcessPoolExecutor | None = None
        self._ready: Future | None = None

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=self._is_ready, cancel_futures=True)  # processes that still start end later

    def results(self, tasks: Iterable[T]) -> Iterator[R]:
        """Yield the result of each task, in order; an error of a task, or of reading tasks, is raised in its turn."""
        waiting: deque[Future[R]] = deque()
        remaining = iter(tasks)
        done = False
        while waiting or not done:
            while not done and len(waiting) < self._ahead:
                future: Future[R] = Future()
                try:
                    task = next(remaining)
                except StopIteration:
                    done = True
                    break
                except Exception as error:
                    future.set_exception(error)
                    done = True
                else:
                    future = self._submit(task)
                waiting.append(future)
            if waiting:
                yield self._result(waiting.popleft())

    def _submit(self, task: T) -> Future[R]:
        if self._pool is None and self._count > 1 and monotonic() - self._start >= _PATIENCE:
            self._pool = _processes(self._work, self._count)
            self._ready = self._pool.submit(os.getpid)
        if self._pool is not None and self._is_ready:
            return self._pool.submit(_do, task)
        future: Future[R] = Future()
        try:
            future.set_result(self._work(task))
        except Exception as error:
            future.set_exception(error)
        return future

    @property
    def _is_ready(self) -> bool:
        return self._ready is not None and self._ready.done()

    @property
    def _ahead(self) -> int:
        return _AHEAD * self._count if self._is_ready else 1

    def _result(self, future: Future[R]) -> R:
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise ValueError(
                f"{self._setting}={self._count}: a process ended before its work was done, perhaps for lack of memory; "
                "allowed: fewer, 1 for none"
            ) from error


def _processes(work: Callable, count: int) -> ProcessPoolExecutor:
    """Make a pool of processes, which inherit neither threads nor locks of this process."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(["__main__", __name__, type(work).__module__])  # imported once for all
    return ProcessPoolExecutor(count, context, initializer=_begin, initargs=(pickle.dumps(work),))


# The work of a worker. A worker watches its parent's sentinel, since its queue would not tell of the parent's end.
_work: list[Callable] = []


def _begin(work: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption ends the parent, and so the workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _work[:] = [pickle.loads(work)]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _do(task: Any) -> Any:
    return _work[0](task)
