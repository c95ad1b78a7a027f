"""End a run with a checkpoint when the system sends a signal."""

import signal
import threading
from collections.abc import Callable
from types import FrameType

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from beacon_lit.strategies.reduce import over_ranks, to_host

Handler = Callable[[int, FrameType | None], object] | int | None  # as `signal.getsignal` returns it


class Preempted(SystemExit):
    """Ends a run after a signal. All ranks raise this error after the same optimizer step."""


class Preemption(Callback):
    """End the run after an optimizer step, once any rank has received SIGTERM.

    SLURM and Kubernetes send SIGTERM before they kill a process. With several ranks, SIGINT (Ctrl-C) is handled alike.

    All ranks end after the same step, so that `Checkpoint` can save with all of them; otherwise they would hang. The
    exit status is 128 plus the signal's number. `resume=` continues from the checkpoint.

    Ranks agree by exchanging one number per step, and read the number one step later, so that no rank waits for it.

    The handlers are installed again before every batch, because native code replaces them without Python's knowledge:
    LLVM does so when Triton first compiles in this process. The first signal then resets LLVM's handler to the default
    before LLVM restores Python's, and a second signal in between (`timeout` signals the process, then its group) kills
    the process without a checkpoint.
    """

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, Handler] = {}
        self._received = 0
        self._agreed: Callable[[], Tensor] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers."""
        self._received, self._agreed = 0, None
        if threading.current_thread() is not threading.main_thread():  # Python allows handlers in the main thread only
            return
        signals = [signal.SIGTERM, signal.SIGINT] if trainer.world_size > 1 else [signal.SIGTERM]
        self._previous = {number: signal.getsignal(number) for number in signals}
        self._install()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Before an optimizer step, when the last step is fully logged: end the run, or vote on ending after it."""
        self._install()
        if batch_idx % trainer.accumulate_grad_batches:
            return
        ends = self._received
        if trainer.world_size > 1:
            ends = 0 if self._agreed is None else int(self._agreed())
        if ends:
            raise Preempted(128 + ends)
        if trainer.world_size > 1:
            own = torch.full((), self._received, device=pl_module.device)  # `torch.tensor` would wait for the GPU
            self._agreed = to_host(over_ranks(own, "max"))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _install(self) -> None:
        for number in self._previous:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
