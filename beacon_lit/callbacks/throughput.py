"""Tokens per second and peak memory."""

import resource
import sys
from time import perf_counter
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

GIB = 2**30


class ThroughputCallback(Callback):
    """Log "train/tokens_per_second" (of all ranks together) and "train/peak_memory_gib", and show both.

    Measured over spans of optimizer steps, from the start of a span's first batch to the end of its last, so what
    happens between two spans (an evaluation, a checkpoint) is not counted. Tokens are those that the attention mask
    lets in. Peak memory is the GPU's, or on a CPU the process's.

    Args:
        every_n_steps: optimizer steps per span; each span ends with a synchronisation of the GPU.

    Raises:
        ValueError: `every_n_steps` below 1.
    """

    def __init__(self, every_n_steps: int = 1) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps: got {every_n_steps}; must be at least 1")
        self.every_n_steps = every_n_steps
        self._start: float | None = None
        self._last_step = 0
        self._tokens: int | Tensor = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock of a span."""
        if self._start is None:
            self._start, self._last_step, self._tokens = perf_counter(), trainer.global_step + self.every_n_steps, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; at the end of a span, log."""
        self._tokens = self._tokens + batch["attention_mask"].sum()
        if self._start is None or trainer.global_step < self._last_step:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)  # so that the clock stops when the work is done
        rate = torch.tensor(float(self._tokens) / (perf_counter() - self._start), device=pl_module.device)
        total = float(trainer.strategy.reduce(rate, reduce_op="sum"))
        memory = peak_memory(pl_module.device)
        self._start = None
        for logger in trainer.loggers:
            logger.log_metrics(
                {"train/tokens_per_second": total, "train/peak_memory_gib": memory}, step=trainer.global_step
            )
        pl_module.log_dict({"tok/s": total, "GiB": memory}, prog_bar=True, logger=False)


def peak_memory(device: torch.device) -> float:
    """GiB: the most that was allocated on a GPU, or that this process held in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
