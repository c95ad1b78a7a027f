"""What every objective is."""

from typing import Any, Protocol

from torch import Tensor

from beacon_lit.arch import BeaconLM, Ratios


class Objective(Protocol):
    """Called once for each batch; weighting and averaging are the training module's."""

    def __call__(self, lm: BeaconLM, batch: dict[str, Any], ratios: Ratios | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Token losses of a batch.

        Modules are called (`lm(...)`), weights are not touched: they may be spread over several GPUs.

        Args:
            lm: the model.
            batch: "input_ids", "attention_mask", "labels", each (B, L) int64; see `beacon_lit.data.collate`.
            ratios: None: the model's policy; see `BeaconLM.forward`.

        Returns:
            The (B, L) float32 loss at [b, t] of predicting token t, 0 where it has no label; and parts of it to be
            logged, by name, shaped alike and without gradient.
        """
