"""Attention over `[memory | window]`: route the projections, rotate, call one kernel."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import rotate_half

from beacon_lit.arch.cache import LayerState
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
    """What every layer of one pass shares.

    Attributes:
        layout: where queries and keys come from.
        q_rope, k_rope, fresh_rope: cos and sin at the slots of queries, keys, and keys new in the next cache.
        kernel: attention kernel, see `kernels.pick_kernel`.
        before: each layer's keys and values of the cache; with `layout.cached` only.
        after: those of the next cache, put here by each layer under its index.
    """

    layout: Layout
    q_rope: Rope
    k_rope: Rope
    kernel: str
    fresh_rope: Rope | None = None
    before: tuple[LayerState, ...] = ()
    after: dict[int, LayerState] = field(default_factory=dict)


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

    def keys_and_values(self, k: Tensor, v: Tensor, beacon: Step) -> tuple[Tensor, Tensor]:
        """(P, K, H) of this pass -> (S, K, H) of all windows, keys rotated. The next cache's are put into `after`."""
        layout, cached = beacon.layout, beacon.layout.cached
        if cached is None:
            k, v = (gather(x, layout.k_index, layout.k_own, layout.k_shared) for x in (k, v))
            return self.rotate(k, *beacon.k_rope), v
        before = beacon.before[self.layer_idx]
        moving_k, moving_v = torch.cat([k, before.moving_k]), torch.cat([v, before.moving_v])
        rotated = self.rotate(moving_k[layout.k_index], *beacon.k_rope)
        fresh = self.rotate(moving_k[cached.fresh_index], *beacon.fresh_rope)  # type: ignore[misc]
        beacon.after[self.layer_idx] = LayerState(
            k=torch.cat([before.k, fresh])[cached.fixed].detach(),
            v=torch.cat([before.v, moving_v[cached.fresh_index]])[cached.fixed].detach(),
            moving_k=moving_k[cached.moving].detach(),
            moving_v=moving_v[cached.moving].detach(),
        )
        return torch.cat([rotated, before.k])[cached.keys], torch.cat([moving_v, before.v])[cached.values]

    def forward(self, hidden_states: Tensor, *args: Any, beacon: Step | None = None, **kwargs: Any) -> Any:
        """The family's forward, or with `beacon` attention over windows: (1, P, D) in stream order -> the same."""
        if beacon is None:
            return super().forward(hidden_states, *args, **kwargs)
        layout, stream = beacon.layout, hidden_states[0]
        q, k, v = (self.project(name, stream, layout.raw).unflatten(-1, (-1, self.head_dim)) for name in "qkv")
        q, k = self.normalize(q, k)
        q = self.rotate(gather(q, layout.q_index, layout.stream_index, layout.none), *beacon.q_rope)
        k, v = self.keys_and_values(k, v, beacon)
        attend = pick_kernel(beacon.kernel, q, layout)
        out = attend(q, k, v, layout, self.scaling).flatten(1)
        out = gather(out, layout.stream_index, layout.q_index, layout.none)
        return self.project("o", out, layout.raw)[None], None
