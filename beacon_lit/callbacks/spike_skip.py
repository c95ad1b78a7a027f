"""Skip optimizer steps whose loss or gradient norm is an outlier among the last steps."""

import logging
import math
from collections import deque
from copy import deepcopy
from statistics import fmean, pstdev
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import LRSchedulerTypeUnion
from torch import Tensor
from torch.optim import Optimizer

from beacon_lit.evaluation.checks import check_at_least
from beacon_lit.strategies.reduce import over_ranks, total_norm

log = logging.getLogger(__name__)


class SpikeSkip(Callback):
    """Skip a step if its loss or gradient norm exceeds the mean of the last steps by `sigma` standard deviations.

    The rule and its defaults follow OLMo 2 (OLMo-core's `SkipStepOptimizer`) and Levanter. A skipped step leaves
    weights, optimizer state and schedule unchanged; its data is not used again, and the trainer counts the step. Its
    loss and norm join the history, so that a lasting change soon counts as normal. A step with a non-finite value is
    skipped as well, but its values stay out of the history.

    The loss is the mean over ranks of the loss that is back-propagated, summed over accumulated batches; the gradient
    norm is that of all trained parameters, before clipping. All ranks decide from the same numbers; each step waits for
    the GPU. The history is part of checkpoints. Logged: "train/skipped_steps", the number of skipped steps so far.

    Args:
        sigma: standard deviations above the mean from which a value counts as a spike.
        window: steps of history; no step is skipped before half of the history is filled.
        max_in_a_row: consecutive steps that may be skipped; one more ends the run.

    Raises:
        ValueError: a setting out of range, or DeepSpeed, whose engine takes the optimizer step itself; in training,
            more than `max_in_a_row` consecutive skips.
    """

    def __init__(self, sigma: float = 6.0, window: int = 128, max_in_a_row: int = 8) -> None:
        check_at_least(4, window=window)
        check_at_least(1, max_in_a_row=max_in_a_row)
        if sigma <= 0:
            raise ValueError(f"sigma={sigma} is not allowed; allowed: above 0")
        self.sigma = sigma
        self.window = window
        self.max_in_a_row = max_in_a_row
        self.skipped = 0
        self._in_a_row = 0
        self._history: deque[tuple[float, float]] = deque(maxlen=window)
        self._loss: float | Tensor = 0.0
        self._before: list[tuple[LRSchedulerTypeUnion, dict[str, Any], list[float]]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse strategies that take the optimizer step themselves."""
        if trainer.strategy.handles_gradient_accumulation:
            raise ValueError(
                f"callbacks.spike_skip is not allowed with {type(trainer.strategy).__name__}, which takes the "
                "optimizer step itself; allowed: one device, trainer=ddp or trainer=fsdp2"
            )

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Add up the losses of the batches of a step."""
        self._loss = self._loss + loss.detach()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Decide, and skip by removing the gradients: an optimizer ignores parameters without a gradient."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        values = torch.stack([torch.as_tensor(self._loss, device=pl_module.device).float(), norm.float()])
        loss, size = (over_ranks(values) / trainer.world_size).tolist()
        self._loss = 0.0
        reason = self._spike(loss, size)
        if math.isfinite(loss) and math.isfinite(size):
            self._history.append((loss, size))
        if reason is not None:
            self.skipped += 1
            self._in_a_row += 1
            self._report(trainer, reason)
            pl_module.log("train/gradient_norm", size)  # the module no longer finds gradients
            for parameter in parameters:
                parameter.grad = None
            rates = [group["lr"] for group in optimizer.param_groups]
            schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
            self._before = [(schedule, deepcopy(schedule.state_dict()), rates) for schedule in schedules]
        else:
            self._in_a_row = 0
        pl_module.log("train/skipped_steps", float(self.skipped))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        """Restore the schedule, which advances even if the optimizer step was skipped."""
        for schedule, state, rates in self._before:
            schedule.load_state_dict(state)
            for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        self._before = []

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to decide in the same way."""
        return {"history": list(self._history), "skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._history = deque((tuple(values) for values in state_dict["history"]), maxlen=self.window)
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def _spike(self, loss: float, norm: float) -> str | None:
        """Describe the value that is a spike; None if there is none."""
        for i, (name, value) in enumerate((("loss", loss), ("gradient norm", norm))):
            if not math.isfinite(value):
                return f"{name} {value}"
            known = [values[i] for values in self._history]
            if 2 * len(known) >= self.window:
                limit = fmean(known) + self.sigma * pstdev(known)
                if value > limit:
                    return f"{name} {value:.4g} is above {limit:.4g}"
        return None

    def _report(self, trainer: Trainer, reason: str) -> None:
        step = trainer.global_step + 1
        if self._in_a_row > self.max_in_a_row:
            raise ValueError(
                f"training step {step}: {reason}; {self._in_a_row} steps in a row would be skipped, more than "
                f"callbacks.spike_skip.max_in_a_row={self.max_in_a_row}"
            )
        if trainer.is_global_zero:
            log.warning(f"training step {step} is skipped: {reason}; skipped so far: {self.skipped}")
