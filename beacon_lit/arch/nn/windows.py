"""Attend in all windows of all rows at once, in layers of one kind: prepare what a kernel sees, and call the kernel."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from beacon_lit.arch.nn.attention import BeaconAttention, Own
from beacon_lit.arch.nn.gather import gather
from beacon_lit.arch.nn.kernels import pick_kernel
from beacon_lit.arch.nn.rope import Rope
from beacon_lit.arch.nn.selection import selected, take
from beacon_lit.arch.nn.state import LayerState
from beacon_lit.arch.plan.layout import CachedLayout, Layout

Rotate = Callable[[Tensor, Tensor, Tensor], Tensor]
Heads = tuple[Tensor, Tensor, Tensor]


class Ropes(NamedTuple):
    """cos and sin at the slots of queries, of keys and, where a cache is kept, of entries that become fixed."""

    q: Rope
    k: Rope
    added: Rope | None = None


def inputs(layout: Layout, ropes: Ropes, rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, own: Own) -> Heads:
    """Select beacons, gather and rotate, in a call without a cache.

    Args:
        layout: where queries and keys come from.
        ropes: cos and sin.
        rotate: the layer's RoPE, see `BeaconAttention.rotate`.
        q, k, v, own: see `attention.Step.attend`.

    Returns:
        q (Q, N, H), k and v (S, K, H) in window order, q and k rotated.
    """
    if own is not None and layout.selection is not None:
        k, v = _with_selected(layout, k, k, v, own)
    places = (layout.k_index, layout.k_first, layout.k_repeats, layout.k_unread)
    keys, values = (gather(x, *places) for x in (k, v))
    return _queries(layout, ropes, rotate, q), rotate(keys, *ropes.k), values


def collect(x: Tensor, index: Tensor) -> Tensor:
    """Take rows: (n, K, H) and indices (S,) -> (S, K, H)."""
    return x[index]


def _with_selected(
    layout: Layout, candidates: Tensor, k: Tensor, v: Tensor, own: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Append to keys and values those of the beacons selected among candidates: (R, K, H) -> (P, K, H)."""
    assert layout.selection is not None
    tokens = selected(candidates, layout.selection)
    return torch.cat([k, take(own[0], tokens)]), torch.cat([v, take(own[1], tokens)])


def _queries(layout: Layout, ropes: Ropes, rotate: Rotate, q: Tensor) -> Tensor:
    return rotate(gather(q, layout.q_index, layout.stream_index), *ropes.q)


class Operations(NamedTuple):
    """The parts of an attention step that can be compiled, see `inputs` and `collect`."""

    inputs: Callable[..., Heads] = inputs
    collect: Callable[[Tensor, Tensor], Tensor] = collect

    def compiled(self) -> "Operations":
        """Return the same operations, compiled for any lengths."""
        return Operations(torch.compile(self.inputs, dynamic=True), torch.compile(self.collect, dynamic=True))


@dataclass(frozen=True, eq=False)
class WindowStep:
    """One pass over all windows of all rows, as an `attention.Step`.

    Attributes:
        layout: where queries and keys come from.
        ropes: cos and sin at the slots of queries and keys.
        kernel: attention kernel, see `kernels.pick_kernel`.
        operations: what comes before the kernel.
        before: each layer's state in the cache, by layer index; with `layout.cached` only.
        after: each layer's state in the next cache, by layer index; filled by the layers as they run.
    """

    layout: Layout
    ropes: Ropes
    kernel: str
    operations: Operations
    before: Mapping[int, LayerState] = field(default_factory=dict)
    after: dict[int, LayerState] = field(default_factory=dict)

    @property
    def raw(self) -> int:
        """See `Step`."""
        return self.layout.raw

    @property
    def selects(self) -> bool:
        """See `Step`."""
        return self.layout.selects

    def attend(self, attention: BeaconAttention, q: Tensor, k: Tensor, v: Tensor, own: Own) -> Tensor:
        """See `Step`."""
        layout, dtype = self.layout, v.dtype
        if layout.cached is None:
            heads = self.operations.inputs(layout, self.ropes, attention.rotate, q, k, v, own)
        else:
            heads = self._cached_inputs(layout.cached, attention, q, k, v, own)
        q, k, v = (x.to(dtype) for x in heads)  # rotations and cached keys are wider under autocast
        kernel = pick_kernel(self.kernel, q, layout, attention.cap)
        out = kernel(q, k, v, layout, attention.scaling, attention.cap)
        return gather(out, layout.stream_index, layout.q_index, unread=layout.q_unread)

    def _cached_inputs(
        self, cached: CachedLayout, attention: BeaconAttention, q: Tensor, k: Tensor, v: Tensor, own: Own
    ) -> Heads:
        """Do what `inputs` does after a cache. Fill `after` for this layer."""
        layout, before, rotate = self.layout, self.before[attention.layer_idx], attention.rotate
        assert self.ropes.added is not None
        if own is not None:
            own = torch.cat([own[0], before.own_k]), torch.cat([own[1], before.own_v])
            if layout.selection is not None:
                k, v = _with_selected(layout, torch.cat([k, before.moving_k]), k, v, own)
        moving_k, moving_v = torch.cat([k, before.moving_k]), torch.cat([v, before.moving_v])
        rotated = rotate(moving_k[layout.k_index], *self.ropes.k)
        added = rotate(moving_k[cached.added_index], *self.ropes.added)
        fixed_k = torch.cat([before.memory_k, before.open_k, added])
        fixed_v = torch.cat([before.memory_v, before.open_v, moving_v[cached.added_index]])
        same = cached.memory is None
        own_k, own_v = (before.own_k, before.own_v) if own is None else (x[cached.own] for x in own)
        self.after[attention.layer_idx] = LayerState(
            memory_k=before.memory_k if same else fixed_k[cached.memory].detach(),
            memory_v=before.memory_v if same else fixed_v[cached.memory].detach(),
            open_k=fixed_k[cached.open].detach(),
            open_v=fixed_v[cached.open].detach(),
            moving_k=moving_k[cached.moving].detach(),
            moving_v=moving_v[cached.moving].detach(),
            own_k=own_k.detach(),
            own_v=own_v.detach(),
        )
        keys = self.operations.collect(torch.cat([rotated, before.memory_k, before.open_k]), cached.keys)
        values = self.operations.collect(torch.cat([moving_v, before.memory_v, before.open_v]), cached.values)
        return _queries(layout, self.ropes, rotate, q), keys, values
