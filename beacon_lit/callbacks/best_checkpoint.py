"""Keeps the checkpoint that is best by a metric, whatever logs it."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from beacon_lit.strategies.reduce import over_ranks


class BestCheckpoint(ModelCheckpoint):
    """Save when a metric is the best so far, beside what another `ModelCheckpoint` saves.

    The metric may be anything that is logged: "eval/perplexity/ratio_8" from evaluation on the way, "val/loss" from
    validation, "train/loss_ratio_8". It is looked at as soon as it is measured, so that a checkpoint holds the weights
    that it was measured on. Ranks that measured differently are averaged.

    Args:
        monitor: the metric's name.
        mode: "min" or "max", which is best.
        every_n_train_steps: look at multiples of it and after validation; more than 1 for what is measured at every
            step.
        settings: those of `ModelCheckpoint`.

    Raises:
        ValueError: in training, a metric that is not measured.
    """

    def __init__(self, monitor: str, mode: str = "min", every_n_train_steps: int = 1, **settings: Any) -> None:
        super().__init__(monitor=monitor, mode=mode, every_n_train_steps=every_n_train_steps, **settings)
        self._newest: Tensor | None = None  # as it was logged
        self._seen: float | None = None  # of all ranks
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse the metrics of a validation that is switched off; pass over what was measured before training."""
        super().on_train_start(trainer, pl_module)
        self._first_step = trainer.global_step
        self._newest = trainer.callback_metrics.get(str(self.monitor))
        self._seen = None if self._newest is None else _mean(self._newest, trainer)
        if str(self.monitor).startswith("val/") and not trainer.enable_validation:
            raise ValueError(
                f"monitor={self.monitor!r} is not measured: validation is off (trainer.limit_val_batches=0); "
                "set that and trainer.val_check_interval"
            )

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """After an optimizer step."""
        if trainer.global_step % self._every_n_train_steps == 0:
            self._look(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After validation."""
        if not trainer.sanity_checking:
            self._look(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the evaluation at the end."""
        self._look(trainer, at_end=True)

    def _look(self, trainer: Trainer, at_end: bool = False) -> None:
        known = trainer.callback_metrics
        logged = known.get(str(self.monitor))
        if logged is None and (at_end or self._overdue(trainer, set(known))):
            allowed = ", ".join(sorted(set(known) - {"epoch", "step"}))
            raise ValueError(f"monitor={self.monitor!r} is not measured; allowed: {allowed}")
        if logged is None or logged is self._newest or self._should_skip_saving_checkpoint(trainer):
            return
        self._newest, value = logged, _mean(logged, trainer)
        if value != self._seen:
            self._seen = value
            metrics = {**self._monitor_candidates(trainer), str(self.monitor): torch.tensor(value)}
            self._save_topk_checkpoint(trainer, metrics)

    def _overdue(self, trainer: Trainer, known: set[str]) -> bool:
        """Whether the metric would be there by now. Those of an evaluation or a validation come all at once."""
        source = str(self.monitor).split("/")[0] + "/"
        if source in ("eval/", "val/") and any(name.startswith(source) for name in known):
            return True
        slowest = max(getattr(callback, "every_n_steps", None) or 1 for callback in trainer.callbacks)  # type: ignore
        return source != "val/" and trainer.global_step - self._first_step >= slowest


def _mean(value: Tensor, trainer: Trainer) -> float:
    """Over ranks; waits for them and for the GPU."""
    return float(over_ranks(value.to(trainer.strategy.root_device))) / trainer.world_size
