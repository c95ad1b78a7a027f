"""Stops training at the first loss that is no number, before it reaches the weights."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor


class NanGuard(Callback):
    """Save the batch and stop when a loss is NaN or infinite.

    Checked before the backward pass, so neither weights nor optimizer have seen it. Written to `folder`:
    `not-finite-step-N.pt` with step, loss, sample ids (`batch["index"]`) and the whole batch.

    Args:
        folder: the run's folder.

    Raises:
        ValueError: in training, naming the step (counted from 1), the sample ids and the file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._batch: Any = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Hold the batch for as long as its loss is computed."""
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The check."""
        batch, self._batch = self._batch, None
        if torch.isfinite(loss):
            return
        step, ids = trainer.global_step + 1, list(batch["index"])
        rank = f"-rank-{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = self.folder / f"not-finite-step-{step}{rank}.pt"
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save({"step": step, "loss": loss.item(), "index": ids, "batch": batch}, path)
        raise ValueError(f"loss is {loss.item()} in training step {step}, samples {ids}; the batch is in {path}")
