"""What can go wrong in a run, as callbacks."""

import os
import signal
from typing import Any

from lightning import Callback, LightningModule, Trainer


class Fault(Callback):
    """Before a batch on one rank: `how` is "raise", "exit" (without a word), a signal that it sends to itself, or
    "killed in a save", the next one.
    """

    def __init__(self, rank: int, batch: int, how: str) -> None:
        self.rank, self.batch, self.how = rank, batch, how

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank != self.rank or batch_idx != self.batch:
            return
        if self.how == "raise":
            raise RuntimeError(f"rank {self.rank} has failed")
        if self.how == "exit":
            os._exit(3)
        if self.how == "killed in a save":
            os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
            return
        os.kill(os.getpid(), signal.Signals[self.how])


def fault(rank: int, batch: int, how: str) -> list[str]:
    """Overrides that put it into a run."""
    target = f"{__name__}.Fault"
    return [
        f"+callbacks.fault={{_target_: {target}, rank: {rank}, batch: {batch}, how: {how}}}",
    ]
