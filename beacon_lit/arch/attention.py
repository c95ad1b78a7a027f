"""Attention over `[memory | window]`: route the projections, rotate, call one kernel."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

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
    """What every layer of one pass shares: how its queries see keys.

    Attributes:
        raw: stream positions from here on are beacons.
    """

    @property
    def raw(self) -> int:
        """See above."""

    def attend(self, attention: BeaconAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (P, N, H), k and v (P, K, H) of one layer, not rotated, in stream order -> (P, N, H)."""


@dataclass(frozen=True, eq=False)
class WindowStep:
    """All windows of all rows in one pass.

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

    @property
    def raw(self) -> int:
        """Stream positions from here on are beacons."""
        return self.layout.raw

    def attend(self, attention: BeaconAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Step`."""
        layout, dtype = self.layout, v.dtype
        q = gather(q, layout.q_index, layout.stream_index, layout.none)
        q = attention.rotate(q, *self.q_rope)
        k, v = self._keys_and_values(attention, k, v)
        q, k, v = (x.to(dtype) for x in (q, k, v))  # wider under autocast: rotations, and what was cached
        out = pick_kernel(self.kernel, q, layout)(q, k, v, layout, attention.scaling)
        return gather(out, layout.stream_index, layout.q_index, layout.none)

    def _keys_and_values(self, attention: BeaconAttention, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(P, K, H) of this pass -> (S, K, H) of all windows, keys rotated. The next cache's are put into `after`."""
        layout, cached = self.layout, self.layout.cached
        if cached is None:
            k, v = (gather(x, layout.k_index, layout.k_own, layout.k_shared) for x in (k, v))
            return attention.rotate(k, *self.k_rope), v
        before = self.before[attention.layer_idx]
        moving_k, moving_v = torch.cat([k, before.moving_k]), torch.cat([v, before.moving_v])
        rotated = attention.rotate(moving_k[layout.k_index], *self.k_rope)
        fresh = attention.rotate(moving_k[cached.fresh_index], *self.fresh_rope)  # type: ignore[misc]
        fixed_k = torch.cat([before.memory_k, before.open_k, fresh])
        fixed_v = torch.cat([before.memory_v, before.open_v, moving_v[cached.fresh_index]])
        same = cached.memory is None
        self.after[attention.layer_idx] = LayerState(
            memory_k=before.memory_k if same else fixed_k[cached.memory].detach(),
            memory_v=before.memory_v if same else fixed_v[cached.memory].detach(),
            open_k=fixed_k[cached.open].detach(),
            open_v=fixed_v[cached.open].detach(),
            moving_k=moving_k[cached.moving].detach(),
            moving_v=moving_v[cached.moving].detach(),
        )
        keys = torch.cat([rotated, before.memory_k, before.open_k])[cached.keys]
        return keys, torch.cat([moving_v, before.memory_v, before.open_v])[cached.values]
