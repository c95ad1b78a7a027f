"""Results have the order of the tasks, whoever does the work; errors come in their turn; no process is left."""

import os
import subprocess
import time
from collections.abc import Iterator
from itertools import count, islice

import pytest

from beacon_lit.data import workers
from beacon_lit.data.workers import Workers
from tests.configs import ROOT
from tests.warm import warm_python

FAIL, END = -1, -2


def work(task: int) -> tuple[int, int]:
    """Return a task and the process that did it; one task fails, another ends the process."""
    if task == END:
        os._exit(1)
    if task == FAIL:
        raise ValueError("a task fails")
    time.sleep(0.002 * (3 - task % 3))
    return task, os.getpid()


class Trial:
    """Tasks that go on until other processes have done some; then `last`, and 20 more.

    Attributes:
        found: the tasks that were done.
        processes: which processes did them.
    """

    def __init__(self, *last: int) -> None:
        self.last = last
        self.found: list[int] = []
        self.processes: list[int] = []

    def tasks(self) -> Iterator[int]:
        numbers = count()
        while len(self.processes) - self.processes.count(os.getpid()) < 60:
            yield next(numbers)
        yield from self.last
        yield from islice(numbers, 20)

    def run(self, processes: int, tasks: Iterator[int] | None = None) -> "Trial":
        with Workers(work, processes) as pool:
            for task, process in pool.results(self.tasks() if tasks is None else tasks):
                self.found.append(task)
                self.processes.append(process)
        return self


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_PATIENCE", 0.0)


def test_short_work_starts_no_process() -> None:
    trial = Trial().run(2, iter(range(20)))
    assert trial.found == list(range(20)) and set(trial.processes) == {os.getpid()}


def test_other_processes_take_over_and_the_order_stays(at_once: None) -> None:
    trial = Trial().run(2)
    assert trial.found == list(range(len(trial.found)))
    assert trial.processes[0] == os.getpid() and len(set(trial.processes)) > 1


def failing(tasks: Iterator[int]) -> Iterator[int]:
    yield from tasks
    raise ValueError("no more can be read")


def test_errors_come_in_their_turn(at_once: None) -> None:
    for processes, tasks in ((1, iter(range(20))), (2, None)):
        trial = Trial()
        with pytest.raises(ValueError, match="no more can be read"):
            trial.run(processes, failing(tasks or trial.tasks()))
        assert len(trial.found) >= 20 and trial.found == list(range(len(trial.found)))
        failed = Trial(FAIL)
        with pytest.raises(ValueError, match="a task fails"):
            failed.run(processes, iter([0, 1, FAIL, 2]) if processes == 1 else None)
        assert len(failed.found) >= 2 and failed.found == list(range(len(failed.found)))


def test_a_process_that_is_killed_is_one_sentence(at_once: None) -> None:
    with pytest.raises(
        ValueError, match="workers=2: a process ended before its work was done, perhaps for lack of mem"
    ):
        Trial(END).run(2)


def test_workers_end_with_a_process_that_is_killed() -> None:
    code = (
        "import os; print(os.getpid(), flush=True)\n"
        "from tests.data import test_workers as t; t.workers._PATIENCE = 0.0\n"
        "with t.Workers(t.work, 2) as pool:\n"
        "    for task, process in pool.results(iter(int, 1)): print(process, flush=True)"
    )
    process = subprocess.Popen([warm_python(), "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    started = int(process.stdout.readline())
    assert any(int(line) != started for line in process.stdout)
    process.kill()
    process.communicate(timeout=30)  # returns when the last that could write to it is gone, the workers as well
