"""The attention module of a backbone's layer, with projections that beacon tokens have of their own."""

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from beacon_lit.arch.nn.own_maps import project
from beacon_lit.arch.nn.rope import rotate
from beacon_lit.arch.nn.selection import selected, take
from beacon_lit.arch.plan.layout import Selection

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
        q, k = self.normalize(q, k)
        if beacon.selection is not None:
            tokens = selected(k, beacon.selection)
            own_k, own_v = (project(self, name, stream, 0).unflatten(-1, (-1, self.head_dim)) for name in "kv")
            k = torch.cat([k, take(self.normalize(q, own_k)[1], tokens)])
            v = torch.cat([v, take(own_v, tokens)])
        out = beacon.attend(self, q, k, v)
        return project(self, "o", out.flatten(1), beacon.raw)[None], None


class Step(Protocol):
    """What all layers of one pass share: how queries see keys.

    Attributes:
        raw: stream positions from here on are beacons.
        selection: of which raw tokens beacons are made, where they do not run.
    """

    @property
    def raw(self) -> int:
        """See above."""

    @property
    def selection(self) -> Selection | None:
        """See above."""

    def attend(self, attention: BeaconAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend in one layer: q (Q, N, H), k and v (P, K, H), not rotated, in stream order -> (Q, N, H)."""
