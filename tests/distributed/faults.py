"""What can go wrong in a run, as callbacks."""

import ctypes
import os
import signal
from typing import Any

from lightning import Callback, LightningModule, Trainer


class Fault(Callback):
    """Before a batch on one rank: `how` is "raise", "exit" (without a word), a signal that it sends to itself,
    "killed in a save", the next one, or "unheard SIGTERM", from the next batch: native code took Python's handler away.
    """

    def __init__(self, rank: int, batch: int, how: str) -> None:
        self.rank, self.batch, self.how = rank, batch, how

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank != self.rank:
            return
        if self.how == "unheard SIGTERM" and batch_idx == self.batch + 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if batch_idx != self.batch:
            return
        if self.how == "raise":
            raise RuntimeError(f"rank {self.rank} has failed")
        if self.how == "exit":
            os._exit(3)
        if self.how == "killed in a save":
            os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
            return
        if self.how == "unheard SIGTERM":
            ctypes.CDLL(None).signal(int(signal.SIGTERM), None)
            return
        os.kill(os.getpid(), signal.Signals[self.how])


def fault(rank: int, batch: int, how: str) -> list[str]:
    """Overrides that put it into a run."""
    target = f"{__name__}.Fault"
    return [
        f"+callbacks.fault={{_target_: {target}, rank: {rank}, batch: {batch}, how: {how}}}",
    ]
