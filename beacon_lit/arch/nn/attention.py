"""The attention module of a backbone's layer, with own projections for beacon tokens."""

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from beacon_lit.arch.nn.own_maps import project, project_beacons
from beacon_lit.arch.nn.rope import rotate
from beacon_lit.arch.nn.selection import selected, take
from beacon_lit.arch.plan.layout import Selection

# The mixin comes before a family's attention class; telling mypy so keeps `super()` typed.
if TYPE_CHECKING:
    from transformers.models.llama.modeling_llama import LlamaAttention as _Attention
else:
    _Attention = object


class BeaconAttention(_Attention):
    """A mixin for a family's attention class, put on instances. Called without a `Step`, it is the family's class."""

    rotate = staticmethod(rotate)

    def normalize(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise (P, heads, H) queries and keys before RoPE, if the family does so (Qwen3)."""
        return q, k

    def forward(self, hidden_states: Tensor, *args: Any, beacon: "Step | None" = None, **kwargs: Any) -> Any:
        """Run the family's forward; with `beacon` attend over windows: (1, P, D) in stream order -> (1, P, D)."""
        if beacon is None:
            return super().forward(hidden_states, *args, **kwargs)
        stream = hidden_states[0]
        q, k, v = (project(self, name, stream, beacon.raw).unflatten(-1, (-1, self.head_dim)) for name in "qkv")
        q, k = self.normalize(q, k)
        if beacon.selection is not None:
            tokens = selected(k, beacon.selection)
            own_k, own_v = (project_beacons(self, name, stream).unflatten(-1, (-1, self.head_dim)) for name in "kv")
            k = torch.cat([k, take(self.normalize(q[:0], own_k)[1], tokens)])
            v = torch.cat([v, take(own_v, tokens)])
        out = beacon.attend(self, q, k, v)
        return project(self, "o", out.flatten(1), beacon.raw)[None], None


class Step(Protocol):
    """How queries see keys; all layers of a pass share one.

    Attributes:
        raw: R; stream positions from R on are beacons.
        selection: the raw tokens to select beacons from, where beacons do not run; else None.
    """

    @property
    def raw(self) -> int:
        """See `Step`."""

    @property
    def selection(self) -> Selection | None:
        """See `Step`."""

    def attend(self, attention: BeaconAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend in one layer.

        Args:
            attention: the layer's attention module.
            q: (Q, N, H), before RoPE, in stream order.
            k, v: (P, K, H), keys before RoPE, in stream order.

        Returns:
            (Q, N, H), in stream order.
        """
