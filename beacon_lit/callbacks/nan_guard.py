"""Stop training at the first non-finite loss, before it reaches the weights."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from beacon_lit.strategies.reduce import over_ranks, to_host


class NanGuard(Callback):
    """Save the batch and stop all ranks when the loss of any rank is NaN or infinite.

    The loss is checked after the backward pass and before the optimizer's step, so weights and optimizer state are
    unaffected. By then a GPU has long computed it: the host waits for the forward pass alone, not for what it has
    launched since. Ranks with a non-finite loss write `not-finite-step-N.pt` to `folder`, with step, loss, sample ids
    (`batch["index"]`) and the whole batch.

    Args:
        folder: the run's folder.

    Raises:
        ValueError: in training, on every rank, with the step (counted from 1) and the ranks in question, and on those
            ranks with the sample ids and the file as well.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._batch: Mapping[str, Any] = {}
        self._losses: Callable[[], Tensor] | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Mapping[str, Any], batch_idx: int
    ) -> None:
        """Keep the batch until its loss is known."""
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Ask for the losses of all ranks: a rank that stopped alone would leave the others waiting for gradients."""
        losses = torch.zeros(trainer.world_size, device=loss.device)
        losses[trainer.global_rank] = loss.detach()
        self._losses = to_host(over_ranks(losses))

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the losses of all ranks."""
        assert self._losses is not None
        of_ranks, self._losses = self._losses().tolist(), None
        batch, self._batch = self._batch, {}
        bad = {rank: value for rank, value in enumerate(of_ranks) if not math.isfinite(value)}
        if not bad:
            return
        step, several = trainer.global_step + 1, trainer.world_size > 1
        ranks = ", ".join(f"{value} on rank {rank}" if several else f"{value}" for rank, value in bad.items())
        where = ""
        if trainer.global_rank in bad:
            path = self._save(batch, step, bad[trainer.global_rank], trainer)
            where = f", samples {list(batch['index'])}; the batch is in {path}"
        raise ValueError(f"loss is {ranks} in training step {step}{where}")

    def _save(self, batch: Mapping[str, Any], step: int, loss: float, trainer: Trainer) -> Path:
        rank = f"-rank-{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = self.folder / f"not-finite-step-{step}{rank}.pt"
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save({"step": step, "loss": loss, "index": list(batch["index"]), "batch": dict(batch)}, path)
        return path
