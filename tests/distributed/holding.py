"""A task that waits in the middle of its examples, so that what is killed then has come to a known place."""

import os
import time
from pathlib import Path

from beacon_lit.evaluation.requests import Answer
from beacon_lit.evaluation.task import Example, Record
from beacon_lit.evaluation.tasks import Passkey

HOLD = "HOLD"  # the environment variable that names a folder; without it nothing is held
PATIENCE = 120  # seconds


class Held(Passkey):
    """Without memory, at a key in the middle or deeper, a process leaves its id as the name of a file and waits."""

    def record(self, example: Example, answer: Answer) -> Record:
        if HOLD in os.environ and answer["ratio"] == "drop" and example.about["depth"] >= 50:
            (Path(os.environ[HOLD]) / str(os.getpid())).touch()
            time.sleep(PATIENCE)
        return super().record(example, answer)


def held(folder: Path, processes: int) -> list[int]:
    """The ids of so many processes, when all of them wait."""
    end = time.monotonic() + PATIENCE
    while len(waiting := [int(file.name) for file in folder.iterdir()]) < processes:
        assert time.monotonic() < end, f"{len(waiting)} of {processes} processes wait"
        time.sleep(0.05)
    return waiting
