"""Log the training loss separately for each ratio at which a token's memory was compressed."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from beacon_lit.arch import BeaconLM, BeaconOutput, Ratio
from beacon_lit.arch.plan.rows import Rows, move
from beacon_lit.arch.plan.windows import Row
from beacon_lit.evaluation.checks import check_at_least
from beacon_lit.loggers import log_metrics
from beacon_lit.strategies.reduce import over_ranks


class RatioLossCallback(Callback):
    """Log "train/loss_ratio_8" and so on, and "train/loss_no_memory".

    A token counts under the ratio of its nearest memory. A token is predicted from the window of the token before it,
    and its nearest memory is the window before that one. Tokens predicted from a row's first window see no memory. The
    losses are weighted means, as is "train/loss", over all tokens since the last log and over all ranks; a ratio
    without tokens is left out.

    Args:
        every_n_steps: optimizer steps between two points of a curve; each point waits for the GPU and the ranks.

    Raises:
        ValueError: `every_n_steps` below 1.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        check_at_least(1, every_n_steps=every_n_steps)
        self.every_n_steps = every_n_steps
        self._batch: Mapping[str, Tensor] = {}
        self._logged_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Register a forward hook on the model."""
        lm = cast(BeaconLM, pl_module.lm)
        self._hook: RemovableHandle = lm.register_forward_hook(self._add)
        self._ratios = lm.beacon.ratios
        self._start(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hook."""
        self._hook.remove()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Mapping[str, Tensor], batch_idx: int
    ) -> None:
        """Keep the batch, whose weights the hook needs."""
        self._batch = batch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Log at the end of an interval."""
        self._batch = {}
        step = trainer.global_step
        if step % self.every_n_steps or step == self._logged_step:
            return
        losses, weights = over_ranks(self._sums).tolist()
        names = ["train/loss_no_memory", *(f"train/loss_ratio_{ratio}" for ratio in self._ratios)]
        sums = zip(names, losses[1:], weights[1:], strict=True)
        log_metrics(trainer, {name: loss / weight for name, loss, weight in sums if weight > 0})
        self._logged_step = step
        self._start(pl_module)

    def _start(self, pl_module: LightningModule) -> None:
        # (2, G): weighted losses and weights of [other tokens, no memory, each ratio]
        self._sums = torch.zeros(2, 2 + len(self._ratios), device=pl_module.device)

    def _add(self, lm: BeaconLM, inputs: object, output: BeaconOutput) -> None:
        """Add the losses and weights of a training pass, without waiting for the GPU."""
        if not lm.training or output.rows is None or output.token_loss is None:
            return
        rows = Rows.of(self._batch["input_ids"], self._batch["attention_mask"])
        groups = move(token_groups(rows, output.rows, self._ratios), output.token_loss.device).flatten()
        weights = self._batch["weights"].flatten()
        losses = output.token_loss.detach().flatten() * weights
        self._sums.index_add_(1, groups, torch.stack([losses, weights]).to(self._sums.dtype))


def token_groups(rows: Rows, planned: Sequence[Row], ratios: Sequence[Ratio]) -> Tensor:
    """Return the group of each token, (B, L) int64.

    The group is 2 + i if the token's nearest memory was compressed at `ratios[i]`, and 1 if the token sees no memory;
    0 for padding, for a row's first token, which is not predicted, and for a ratio outside `ratios`.
    """
    number = {ratio: 2 + i for i, ratio in enumerate(ratios)}
    groups = torch.zeros(len(rows.lengths), rows.width, dtype=torch.int64)
    for group, start, length, row in zip(groups, rows.starts, rows.lengths, planned, strict=True):
        memory = [1, *(number.get(window.ratio, 0) for window in row.windows[:-1])]
        sizes = torch.tensor([window.length for window in row.windows])
        group[start + 1 : start + length] = torch.tensor(memory).repeat_interleave(sizes)[:-1]
    return groups
