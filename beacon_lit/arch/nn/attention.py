"""The attention module of a backbone's layer, with projections that beacon tokens have of their own."""

from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from beacon_lit.arch.nn.own_maps import project
from beacon_lit.arch.nn.rope import rotate

# The mixin comes before a family's attention class; telling mypy so keeps `super()` typed.
if TYPE_CHECKING:
    from transformers.models.llama.modeling_llama import LlamaAttention as _Attention
else:
    _Attention = object


class BeaconAttention(_Attention):
    """Mixin for a family's attention class, put on an instance. Without a `Step` it is that class."""

    rotate = staticmethod(rotate)

    def normalize(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Do what a family does to (P, heads, H) queries and keys before RoPE: nothing, unless overridden."""
        return q, k

    def forward(self, hidden_states: Tensor, *args: Any, beacon: "Step | None" = None, **kwargs: Any) -> Any:
        """The family's forward, or with `beacon` attention over windows: (1, P, D) in stream order -> the same."""
        if beacon is None:
            return super().forward(hidden_states, *args, **kwargs)
        stream = hidden_states[0]
        q, k, v = (project(self, name, stream, beacon.raw).unflatten(-1, (-1, self.head_dim)) for name in "qkv")
        out = beacon.attend(self, *self.normalize(q, k), v)
        return project(self, "o", out.flatten(1), beacon.raw)[None], None


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
