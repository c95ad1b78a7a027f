"""The output of a forward pass of a beacon model."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput

from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.inference.decode import Decoding
from beacon_lit.arch.plan.windows import Row


@dataclass
class BeaconOutput(ModelOutput):
    """The output of a forward pass.

    Attributes:
        loss: scalar float32, the sum of token losses over the number of labelled tokens; set if labels are given.
        logits: (B, L, V), or fewer columns with `logits_to_keep`: every raw token, beacons removed; 0 at padding.
        token_loss: (B, L) float32, in nats: at [b, t] the loss of label [b, t]; 0 where there is no label.
        token_kl: (B, L) float32, in nats, with a teacher: KL(teacher || model) of the distributions that predict label
            [b, t]; 0 where there is no label, or the teacher does not read.
        taught: (B, L) bool, with a teacher: whether there is a label and the teacher reads.
        observed: with `observe`, outputs of the chosen layers, (B, L, D) by "hidden.LAYER" and "attention.LAYER".
        taught_states: with a teacher and `observe`, these outputs of the dense backbone; 0 where it does not read.
        cache: the cache to continue from; set if `cache` or `use_cache` is given.
        rows: what the pass did to each row: its windows, with the ratio and the beacons of each. In training mode
            only, and not in a tuple, which holds tensors and caches alone.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    token_loss: Tensor | None = None
    token_kl: Tensor | None = None
    taught: Tensor | None = None
    observed: dict[str, Tensor] | None = None
    taught_states: dict[str, Tensor] | None = None
    cache: BeaconCache | Decoding | None = None
    rows: tuple[Row, ...] | None = None

    @property
    def past_key_values(self) -> BeaconCache | Decoding | None:
        """Another name for `cache`."""
        return self.cache
