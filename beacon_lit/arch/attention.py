"""Attention over `[memory | window]`: route the projections, rotate, call one kernel."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import rotate_half

from beacon_lit.arch.config import PROJECTIONS
from beacon_lit.arch.gather import gather
from beacon_lit.arch.kernels import pick_kernel
from beacon_lit.arch.layout import Layout

Rope = tuple[Tensor, Tensor]  # cos and sin, each (tokens, H)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on (tokens, heads, H), with the operations of the backbones so that results are the same to the bit."""
    return x * cos[:, None] + rotate_half(x) * sin[:, None]


@dataclass(frozen=True, eq=False)
class Step:
    """What every layer of one pass shares: the layout, cos and sin at the slots of queries and keys, the kernel."""

    layout: Layout
    q_rope: Rope
    k_rope: Rope
    kernel: str


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
        # With no beacon in the step the empty product keeps the parameters in the graph, with zero gradient.
        return base(stream) if beacon is None else torch.cat([base(stream[:raw]), beacon(stream[raw:])])

    def forward(self, hidden_states: Tensor, *args: Any, beacon: Step | None = None, **kwargs: Any) -> Any:
        """The family's forward, or with `beacon` attention over windows: (1, P, D) in stream order -> the same."""
        if beacon is None:
            return super().forward(hidden_states, *args, **kwargs)
        layout, stream = beacon.layout, hidden_states[0]
        q, k, v = (self.project(name, stream, layout.raw).unflatten(-1, (-1, self.head_dim)) for name in "qkv")
        q, k = self.normalize(q, k)
        q = gather(q, layout.q_index, layout.stream_index, layout.none)
        k, v = (gather(x, layout.k_index, layout.k_own, layout.k_shared) for x in (k, v))
        q, k = self.rotate(q, *beacon.q_rope), self.rotate(k, *beacon.k_rope)
        attend = pick_kernel(beacon.kernel, q, layout)
        out = attend(q, k, v, layout, self.scaling).flatten(1)
        out = gather(out, layout.stream_index, layout.q_index, layout.none)
        return self.project("o", out, layout.raw)[None], None
