"""Train beacons to predict the next token."""

from collections.abc import Mapping

from torch import Tensor

from beacon_lit.arch import BeaconLM, Ratios


class LanguageModeling:
    """Compute the cross entropy with the text itself, in nats."""

    def __call__(
        self, lm: BeaconLM, batch: Mapping[str, Tensor], ratios: Ratios | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return token losses; see `Objective`."""
        out = lm(
            batch["input_ids"], batch["attention_mask"], labels=batch["labels"], ratios=ratios, return_logits=False
        )
        return out.token_loss, {}
