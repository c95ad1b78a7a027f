"""A layer of a backbone whose MLP has own maps for beacons. Layers without such maps keep the family's class."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from beacon_lit.arch.nn.attention import Step
from beacon_lit.arch.nn.own_maps import project_beacons

# The mixin comes before a family's layer class; telling mypy so keeps `super()` typed.
if TYPE_CHECKING:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer as _Layer
else:
    _Layer = object


class BeaconLayer(_Layer):
    """A mixin for a family's layer class, put on instances. Called without a `Step`, it is the family's class."""

    def forward(self, hidden_states: Tensor, *args: Any, beacon: Step | None = None, **kwargs: Any) -> Tensor:
        """Run the family's forward; with `beacon`, beacons go through their own maps in the MLP."""
        if beacon is None:
            return super().forward(hidden_states, *args, **kwargs)
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), beacon=beacon, **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + feed_forward(self.mlp, self.post_attention_layernorm(hidden_states)[0], beacon.raw)[None]


def feed_forward(mlp: nn.Module, stream: Tensor, raw: int) -> Tensor:
    """Run the MLP, beacons through their own maps: (P, D) in stream order, the first `raw` raw tokens -> (P, D)."""
    if raw == len(stream) and not torch.is_grad_enabled():
        return mlp(stream)
    beacons = stream[raw:]
    gate, up = (project_beacons(mlp, name, beacons) for name in ("gate", "up"))
    return torch.cat([mlp(stream[:raw]), project_beacons(mlp, "down", mlp.act_fn(gate) * up)])  # type: ignore[operator]
