"""Attend in all windows of all rows at once, in layers of one kind: gather, rotate, call a kernel."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from beacon_lit.arch.nn.attention import BeaconAttention, Own
from beacon_lit.arch.nn.gather import gather
from beacon_lit.arch.nn.kernels import pick_kernel
from beacon_lit.arch.nn.rope import Rope
from beacon_lit.arch.nn.selection import selected, take
from beacon_lit.arch.nn.state import LayerState
from beacon_lit.arch.plan.layout import Layout


@dataclass(frozen=True, eq=False)
class WindowStep:
    """One pass over all windows of all rows, as an `attention.Step`.

    Attributes:
        layout: where queries and keys come from.
        q_rope, k_rope: cos and sin at the slots of queries and keys.
        added_rope: cos and sin at the slots of entries that become fixed in this pass; with `layout.cached` only.
        kernel: attention kernel, see `kernels.pick_kernel`.
        before: each layer's state in the cache, by layer index; with `layout.cached` only.
        after: each layer's state in the next cache, by layer index; filled by the layers as they run.
    """

    layout: Layout
    q_rope: Rope
    k_rope: Rope
    kernel: str
    added_rope: Rope | None = None
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
        if own is not None:
            k, v, own = self._with_selected(attention, k, v, own)
        q = gather(q, layout.q_index, layout.stream_index, layout.empty, layout.empty)
        q = attention.rotate(q, *self.q_rope)
        k, v = self._keys_and_values(attention, k, v, own)
        q, k, v = (x.to(dtype) for x in (q, k, v))  # rotations and cached keys are wider under autocast
        out = pick_kernel(self.kernel, q, layout)(q, k, v, layout, attention.scaling)
        return gather(out, layout.stream_index, layout.q_index, layout.empty, layout.q_unread)

    def _with_selected(
        self, attention: BeaconAttention, k: Tensor, v: Tensor, own: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Append the selected beacons to keys and values, (R, K, H) -> (P, K, H), and the cached `own` to `own`."""
        raw, (own_k, own_v) = k, own
        if self.layout.cached is not None:
            before = self.before[attention.layer_idx]
            raw = torch.cat([k, before.moving_k])
            own_k, own_v = torch.cat([own_k, before.own_k]), torch.cat([own_v, before.own_v])
        if self.layout.selection is not None:
            tokens = selected(raw, self.layout.selection)
            k, v = torch.cat([k, take(own_k, tokens)]), torch.cat([v, take(own_v, tokens)])
        return k, v, (own_k, own_v)

    def _keys_and_values(self, attention: BeaconAttention, k: Tensor, v: Tensor, own: Own) -> tuple[Tensor, Tensor]:
        """Gather the windows' keys, rotated, and values: (P, K, H) -> (S, K, H). Fill `after` for this layer."""
        layout, cached = self.layout, self.layout.cached
        if cached is None:
            k, v = (gather(x, layout.k_index, layout.k_first, layout.k_repeats, layout.k_unread) for x in (k, v))
            return attention.rotate(k, *self.k_rope), v
        before = self.before[attention.layer_idx]
        moving_k, moving_v = torch.cat([k, before.moving_k]), torch.cat([v, before.moving_v])
        rotated = attention.rotate(moving_k[layout.k_index], *self.k_rope)
        added = attention.rotate(moving_k[cached.added_index], *self.added_rope)  # type: ignore[misc]
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
        keys = torch.cat([rotated, before.memory_k, before.open_k])[cached.keys]
        return keys, torch.cat([moving_v, before.memory_v, before.open_v])[cached.values]
