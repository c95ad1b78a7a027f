"""Stops a run with a checkpoint when the system asks it to end."""

import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from beacon_lit.strategies.reduce import over_ranks, to_host


class Preempted(SystemExit):
    """The run was asked to end. All ranks raise it after the same optimizer step."""


class Preemption(Callback):
    """End the run after an optimizer step once a signal has come to any rank.

    All ranks end after the same step, so that `Checkpoint` can save together; without this they would hang. The exit
    status is 128 plus the signal's number. `resume=` goes on from the checkpoint.

    Ranks agree on a single number in every step. It is read one step later, when it is likely to be there.

    It listens again before every batch, because native code replaces handlers behind Python's back: LLVM does when
    Triton first compiles in this process. The first signal resets LLVM's handler to the default, before that restores
    Python's; a second one in between (`timeout` signals the process, then its group) kills without a checkpoint.

    Args:
        signals: by name. SIGTERM is what SLURM and Kubernetes send before they kill. Where there are several ranks
            SIGINT (Ctrl-C) ends the run in this way, too.

    Raises:
        ValueError: a signal that does not exist.
    """

    def __init__(self, signals: Sequence[str] = ("SIGTERM",)) -> None:
        known = signal.Signals.__members__
        for name in signals:
            if name not in known:
                raise ValueError(f"signals={name!r} is not allowed; allowed: {', '.join(sorted(known))}")
        self.signals = [known[name] for name in signals]
        self._before: dict[signal.Signals, Any] = {}
        self._received = 0
        self._agreed: Callable[[], Tensor] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen."""
        self._received, self._agreed = 0, None
        if threading.current_thread() is not threading.main_thread():  # Python allows handlers in this one only
            return
        several = [signal.SIGINT] if trainer.world_size > 1 else []
        self._before = {number: signal.getsignal(number) for number in {*self.signals, *several}}
        self._listen()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before an optimizer step, when all of the last one is logged: end, or vote on the end after this one."""
        self._listen()
        if batch_idx % trainer.accumulate_grad_batches:
            return
        ends = self._received
        if trainer.world_size > 1:
            ends = 0 if self._agreed is None else int(self._agreed())
        if ends:
            raise Preempted(128 + ends)
        if trainer.world_size > 1:
            own = torch.full((), self._received, device=pl_module.device)  # not `tensor`, which waits for the GPU
            self._agreed = to_host(over_ranks(own, "max"))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop to listen."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _listen(self) -> None:
        for number in self._before:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
