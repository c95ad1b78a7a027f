"""Predict the next token."""

from typing import Any

from torch import Tensor

from beacon_lit.arch import BeaconLM, Ratios


class LanguageModeling:
    """Cross entropy with the text itself, in nats."""

    def __call__(self, lm: BeaconLM, batch: dict[str, Any], ratios: Ratios | None) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Objective`."""
        out = lm(
            batch["input_ids"], batch["attention_mask"], labels=batch["labels"], ratios=ratios, return_logits=False
        )
        return out.token_loss, {}
