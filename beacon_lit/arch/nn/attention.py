"""The attention module of a backbone's layer, with projections that beacon tokens have of their own."""

from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beacon_lit.arch.config import PROJECTIONS
from beacon_lit.arch.nn.rope import rotate


class BeaconLinear(nn.Linear):
    """A projection of beacon tokens. Its weights may be wider (float32 while trained) than the hidden states."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., out), in the dtype of `x`."""
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


# The mixin comes before a family's attention class; telling mypy so keeps `super()` typed.
if TYPE_CHECKING:
    from transformers.models.llama.modeling_llama import LlamaAttention as _Attention
else:
    _Attention = object


class BeaconAttention(_Attention):
    """Mixin for a family's attention class, put on an instance by `install`. Without a `Step` it is that class."""

    rotate = staticmethod(rotate)

    def install(self, params: tuple[str, ...]) -> None:
        """Add the beacon projections named in `params`, shaped like the backbone's own."""
        for name in params:
            own = getattr(self, f"{name}_proj")
            projection = BeaconLinear(
                own.in_features, own.out_features, own.bias is not None, own.weight.device, own.weight.dtype
            )
            self.add_module(f"beacon_{name}_proj", projection)

    @torch.no_grad()
    def initialize(self) -> None:
        """Start every beacon projection from the backbone's."""
        for name in PROJECTIONS:
            if hasattr(self, f"beacon_{name}_proj"):
                getattr(self, f"beacon_{name}_proj").load_state_dict(getattr(self, f"{name}_proj").state_dict())

    def normalize(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """What a family does to (P, heads, H) queries and keys before RoPE: nothing, unless overridden."""
        return q, k

    def project(self, name: str, stream: Tensor, raw: int) -> Tensor:
        """(P, D) in stream order -> (P, out): the backbone's projection of raw tokens, the beacons' own of theirs."""
        base = getattr(self, f"{name}_proj")
        beacon = getattr(self, f"beacon_{name}_proj", None)
        # With no beacon in a training step the empty product keeps the parameters in the graph, with zero gradient.
        if beacon is None or (raw == len(stream) and not torch.is_grad_enabled()):
            return base(stream)
        return torch.cat([base(stream[:raw]), beacon(stream[raw:])])

    def forward(self, hidden_states: Tensor, *args: Any, beacon: "Step | None" = None, **kwargs: Any) -> Any:
        """The family's forward, or with `beacon` attention over windows: (1, P, D) in stream order -> the same."""
        if beacon is None:
            return super().forward(hidden_states, *args, **kwargs)
        stream = hidden_states[0]
        q, k, v = (self.project(name, stream, beacon.raw).unflatten(-1, (-1, self.head_dim)) for name in "qkv")
        out = beacon.attend(self, *self.normalize(q, k), v)
        return self.project("o", out.flatten(1), beacon.raw)[None], None


class Step(Protocol):
    """What all layers of one pass share: how queries see keys.

    Attributes:
        raw: stream positions from here on are beacons.
    """

    @property
    def raw(self) -> int:
        """See above."""

    def attend(self, attention: BeaconAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend in one layer: q (P, N, H), k and v (P, K, H), not rotated, in stream order -> (P, N, H)."""
