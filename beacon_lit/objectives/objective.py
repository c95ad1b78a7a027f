"""Define the protocol of training objectives."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from beacon_lit.arch import BeaconLM, Ratios


class Objective(Protocol):
    """A training objective, called once per batch; the training module weights and averages the losses.

    An objective may also have:
        check(lm): called with the model before training; raises a ValueError for a setting that does not fit the model.
        teacher: a `Teacher`, which stays fixed; training the backbone is then refused.
    """

    def __call__(
        self, lm: BeaconLM, batch: Mapping[str, Tensor], ratios: Ratios | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the token losses of a batch.

        An objective calls modules (`lm(...)`) and does not read weights, which may be spread over several GPUs.

        Args:
            lm: the model.
            batch: "input_ids", "attention_mask", "labels", each (B, L) int64, on the CPU whatever the model's device;
                see `beacon_lit.data.collate`.
            ratios: compression ratios; None: the model's policy; see `BeaconLM.forward`.

        Returns:
            The loss, (B, L) float32: at [b, t] the loss of predicting token t, 0 without a label; and parts of the loss
            to log, by name, (B, L) without gradient.
        """
