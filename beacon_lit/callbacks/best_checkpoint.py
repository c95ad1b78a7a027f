"""Keep the best checkpoint by a metric, whichever part of a run logs the metric."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from beacon_lit.strategies.reduce import over_ranks


class BestCheckpoint(ModelCheckpoint):
    """Save a checkpoint whenever a metric reaches its best value so far, in addition to other `ModelCheckpoint`s.

    The metric may be anything that is logged: "eval/perplexity/ratio_8" from evaluation during training, "val/loss"
    from validation, "train/loss_ratio_8". A checkpoint is saved as soon as the metric is measured, so that it holds the
    measured weights. The metric is averaged over ranks.

    Args:
        monitor: the metric's name.
        mode: "min" or "max": which values are better.
        every_n_train_steps: optimizer steps between two checks of the metric, which is checked after validation as
            well; use more than 1 for a metric that is measured at every step.
        settings: further arguments of `ModelCheckpoint`.

    Raises:
        ValueError: in training, a metric that is never measured.
    """

    def __init__(self, monitor: str, mode: str = "min", every_n_train_steps: int = 1, **settings: Any) -> None:
        super().__init__(monitor=monitor, mode=mode, every_n_train_steps=every_n_train_steps, **settings)
        self._newest: Tensor | None = None  # as it was logged
        self._seen: float | None = None  # of all ranks
        self._first_step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a metric of validation if validation is off."""
        super().setup(trainer, pl_module, stage)
        if str(self.monitor).startswith("val/") and not trainer.enable_validation:
            raise ValueError(
                f"monitor={self.monitor!r} is not measured: validation is off; "
                "set data.validation and trainer.val_check_interval"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ignore values measured before training."""
        super().on_train_start(trainer, pl_module)
        self._first_step = trainer.global_step
        self._newest = trainer.callback_metrics.get(str(self.monitor))
        self._seen = None if self._newest is None else _mean(self._newest, trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        """Check the metric after an optimizer step."""
        if trainer.global_step % self._every_n_train_steps == 0:
            self._save_if_best(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the metric after validation."""
        if not trainer.sanity_checking:
            self._save_if_best(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the metric after the last evaluation."""
        self._save_if_best(trainer, at_end=True)

    def _save_if_best(self, trainer: Trainer, at_end: bool = False) -> None:
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
        """Whether the metric should have been logged by now. All metrics of one evaluation are logged together."""
        source = str(self.monitor).split("/")[0] + "/"
        if source in ("eval/", "val/") and any(name.startswith(source) for name in known):
            return True
        slowest = max(getattr(callback, "every_n_steps", None) or 1 for callback in trainer.callbacks)  # type: ignore
        return source != "val/" and trainer.global_step - self._first_step >= slowest


def _mean(value: Tensor, trainer: Trainer) -> float:
    """Average over ranks; this waits for them and for the GPU."""
    return float(over_ranks(value.to(trainer.strategy.root_device))) / trainer.world_size
