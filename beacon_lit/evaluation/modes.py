"""What is compared: the untouched backbone, windows without any memory, and memory at one ratio."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Model = Any  # a BeaconLM, or whatever has its forward, `dense`, `dense_token_loss`, `beacon` and `device`

DENSE = "dense"
WINDOW_ONLY = "window-only"


@dataclass(frozen=True)
class Mode:
    """One way to read a text with a model, a row of every table.

    Args:
        name: as in tables: "dense", "window-only", "ratio 8".
        ratios: what the model's forward gets as `ratios`; None stands for its dense forward.
    """

    name: str
    ratios: int | str | None

    @property
    def uses_beacons(self) -> bool:
        """Whether trained beacons can change what this mode scores."""
        return isinstance(self.ratios, int)

    def token_loss(self, lm: Model, input_ids: Tensor, labels: Tensor) -> Tensor:
        """Negative log likelihoods in nats, float32 of shape (B, L): entry t is that of `labels[:, t]` given the
        tokens before it, and 0 at t = 0 and where the label is -100.

        Args:
            input_ids: (B, L) int64, rows without padding.
            labels: (B, L) int64, not shifted.
        """
        if self.ratios is None:
            return lm.dense_token_loss(input_ids, attention_mask=None, labels=labels)
        return lm(input_ids, labels=labels, ratios=self.ratios, return_logits=False).token_loss

    def last_logits(self, lm: Model, input_ids: Tensor, count: int) -> Tensor:
        """Logits after each of the last `count` tokens, (B, count, V), for `input_ids` (B, L) without padding."""
        if self.ratios is None:
            return lm.dense(input_ids, logits_to_keep=count).logits
        return lm(input_ids, ratios=self.ratios, logits_to_keep=count).logits


def parse_mode(value: str | int) -> Mode:
    """The mode written as "dense", "window-only" or a ratio (an int >= 1).

    Raises:
        ValueError: anything else.
    """
    if value == DENSE:
        return Mode(DENSE, None)
    if value == WINDOW_ONLY:
        return Mode(WINDOW_ONLY, "drop")
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return Mode(f"ratio {value}", value)
    raise ValueError(f"modes: got {value!r}; each must be {DENSE!r}, {WINDOW_ONLY!r} or a ratio (an integer >= 1)")


def choose_modes(lm: Model, values: Sequence[str | int] | None = None) -> tuple[Mode, ...]:
    """The modes written in `values`; None means dense, window-only and every ratio that the model was built with.

    Raises:
        ValueError: an empty list, a repeated mode, one that `parse_mode` refuses, or a ratio that does not divide the
            model's window.
    """
    chosen = (DENSE, WINDOW_ONLY, *sorted(lm.beacon.ratios)) if values is None else tuple(values)
    if not chosen or len(set(chosen)) != len(chosen):
        raise ValueError(f"modes: got {list(chosen)}; they must be at least one, and each only once")
    modes = tuple(parse_mode(value) for value in chosen)
    for mode in modes:
        if isinstance(mode.ratios, int) and lm.beacon.window % mode.ratios:
            raise ValueError(f"ratio={mode.ratios} is not allowed; allowed: divisors of the window, {lm.beacon.window}")
    return modes
