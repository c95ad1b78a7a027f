"""A layer of a backbone whose MLP has own maps for beacons. Layers without such maps keep the family's class."""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from beacon_lit.arch.nn.attention import Step
from beacon_lit.arch.nn.own_maps import project

# The mixin comes before a family's layer class; telling mypy so keeps `super()` typed.
if TYPE_CHECKING:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer as _Layer
else:
    _Layer = object


class BeaconLayer(_Layer):
    """A mixin for a family's layer class, put on instances. Called without a `Step`, it is the family's class.

    Attributes:
        before_attention, after_attention, before_mlp, after_mlp: names of the norms before and after the two sublayers;
            None: there is no norm.
        activation: name of the MLP's activation function.
        residual_multiplier: factor of what a sublayer adds to the hidden states (Granite).
    """

    before_attention: ClassVar[str | None] = "input_layernorm"
    after_attention: ClassVar[str | None] = None
    before_mlp: ClassVar[str | None] = "post_attention_layernorm"
    after_mlp: ClassVar[str | None] = None
    activation: ClassVar[str] = "act_fn"
    residual_multiplier: float = 1.0

    def forward(self, hidden_states: Tensor, *args: Any, beacon: Step | None = None, **kwargs: Any) -> Tensor:
        """Run the family's forward; with `beacon`, beacons go through their own maps in the MLP."""
        if beacon is None:
            return super().forward(hidden_states, *args, **kwargs)
        attended, _ = self.self_attn(self._norm(self.before_attention, hidden_states), beacon=beacon, **kwargs)
        hidden_states = self._add(hidden_states, self._norm(self.after_attention, attended))
        stream = self._norm(self.before_mlp, hidden_states)[0]
        return self._add(hidden_states, self._norm(self.after_mlp, self._feed_forward(stream, beacon.raw)[None]))

    def _norm(self, name: str | None, x: Tensor) -> Tensor:
        return x if name is None else getattr(self, name)(x)

    def _add(self, hidden: Tensor, more: Tensor) -> Tensor:
        return hidden + (more if self.residual_multiplier == 1.0 else more * self.residual_multiplier)

    def _feed_forward(self, stream: Tensor, raw: int) -> Tensor:
        """Run the MLP, beacons through their own maps: (P, D) in stream order, the first `raw` raw tokens."""
        mlp: nn.Module = self.mlp
        if raw == len(stream) and not torch.is_grad_enabled():
            return mlp(stream)
        gate, up = project(mlp, ("gate", "up"), stream[raw:], 0)
        (beacons,) = project(mlp, ("down",), getattr(mlp, self.activation)(gate) * up, 0)
        return torch.cat([mlp(stream[:raw]), beacons])
