"""Static buffers of keys and values, which decoding token by token reads and writes in place.

A row has `S` places for `[memory | overlap | open window]`, one per slot, and the last place is scratch for rows that
read nothing in a step. In layers with memory a key is at the index of its slot. In layers with a sliding window slots
are positions in the text, and the first place is for the first raw token that the cache holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.inference.moving import Moving, Opened, read_entries, write_entries
from beacon_lit.arch.nn.attention import BeaconAttention, Own
from beacon_lit.arch.nn.logits import soft_cap
from beacon_lit.arch.nn.rope import Rope, rotated_layers
from beacon_lit.arch.nn.state import LayerState
from beacon_lit.arch.placements import MEMORY, OVERLAP, Tokens
from beacon_lit.arch.plan.state import RowState
from beacon_lit.arch.plan.windows import beacons_of

try:
    from beacon_lit.arch.nn import flash_decoding
except ImportError:  # no Triton, where torch is for CPUs
    flash_decoding = None  # type: ignore[assignment]

CHUNK = 512  # places that one product over values sums; S is a multiple


@dataclass(frozen=True, eq=False)
class StaticStep:
    """One new raw token for every row in one layer, and maybe a beacon behind each, as an `attention.Step`.

    Attributes:
        keys, values: (B, K, S, H); keys and values of the new tokens are written into them.
        rows: (P,) int64, the rows of the new tokens: P = B, or with beacons 2 B.
        slots: (P,) int64, places of the new tokens.
        rope: cos and sin at the slots of the new tokens.
        bias: (P, 1, S), 0 for places that a token sees, -inf for others.
        selects: whether the new tokens can become beacons when their window closes.
        moving: where moving entries of the new tokens are written; None where they are not.
    """

    keys: Tensor
    values: Tensor
    rows: Tensor
    slots: Tensor
    rope: Rope
    bias: Tensor
    selects: bool = False
    moving: Opened | None = None

    @property
    def raw(self) -> int:
        """The first tokens are raw, one for each row."""
        return len(self.keys)

    def attend(self, attention: BeaconAttention, q: Tensor, k: Tensor, v: Tensor, own: Own) -> Tensor:
        """Attend in one layer: q (P, N, H), k and v (P, K, H), before RoPE -> (P, N, H)."""
        rotated = attention.rotate(k, *self.rope).to(self.keys.dtype)  # narrower under autocast
        self.keys[self.rows, :, self.slots] = rotated
        self.values[self.rows, :, self.slots] = v.to(self.values.dtype)
        if self.moving is not None:
            self.moving.write(self.rows, k, *(own or ()))
        q = attention.rotate(q, *self.rope)
        parts = zip(q.split(self.raw), self.bias.split(self.raw), strict=True)
        out = [attend(each, self.keys, self.values, bias, attention.scaling, attention.cap) for each, bias in parts]
        return out[0] if len(out) == 1 else torch.cat(out)


class InWindow(NamedTuple):
    """Where new tokens stand in their open windows: (P,) int64 each.

    Attributes:
        slot: the slot, counted from the window's first.
        overlap: slots of the overlap before the window.
        ratio: raw tokens for each beacon; where there are none, as many as the window can have slots.
    """

    slot: Tensor
    overlap: Tensor
    ratio: Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, cap: float | None = None) -> Tensor:
    """Attend with one query per row: half precision on a GPU by FlashDecoding, else in products that spread over slots.

    Args:
        q: (B, N, H).
        k, v: (B, K, S, H), S a multiple of `CHUNK`, N of K.
        bias: (B, 1, S), added to the scaled and capped scores; its dtype is the dtype of the computation.
        scale: scale of the scores.
        cap: soft cap of the scaled scores; None: there is none.
    """
    if k.is_cuda and k.dtype in (torch.bfloat16, torch.float16) and flash_decoding is not None:
        return flash_decoding.attend(q, k, v, bias, scale, cap)
    batch, heads, _, dim = k.shape
    q = q.unflatten(1, (heads, -1)).flatten(0, 1)  # (B K, group, H)
    scores = _product(q, k.flatten(0, 1).transpose(1, 2), bias.dtype).unflatten(0, (batch, heads))
    if cap is None:
        scores = torch.add(bias[:, None], scores, alpha=scale)
    else:
        scores = bias[:, None] + soft_cap(scores * scale, cap)
    weights = scores.softmax(-1)
    chunks = weights.unflatten(-1, (-1, CHUNK)).transpose(2, 3).to(v.dtype, memory_format=torch.contiguous_format)
    out = _product(chunks.flatten(0, 2), v.reshape(-1, CHUNK, dim), bias.dtype)
    return out.unflatten(0, (batch, heads, -1)).sum(2).to(q.dtype).flatten(1, 2)


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply batches in `dtype`. CUDA multiplies half precision into float32; CPUs convert it first."""
    if a.dtype == dtype:
        return torch.bmm(a, b)
    return torch.bmm(a, b, out_dtype=dtype) if a.is_cuda else torch.bmm(a.to(dtype), b.to(dtype))


class Buffers:
    """Keys and values for a batch of rows, loaded from caches and read back into caches.

    Parts of a cache that have as many heads and slots are in one object: without head budgets, all layers of a kind.

    Attributes:
        parts: indices of the parts of a cache that are here, see `HeadGroups.parts`.
        kind: what their layers keep.
        index: the place of each layer among `keys` and `values`.
        members: for each layer, its KV heads that are here.
        inserts: whether open windows hold beacons here.
        keys, values: (parts, B, K, S, H).
        moving: entries that get another slot when a window closes, without RoPE.
        first: (B,) int64, the slot of each row's first place.
    """

    def __init__(
        self, lm: BeaconModel, cache: BeaconCache, parts: Sequence[int], states: Sequence[RowState], width: int
    ) -> None:
        group = lm.groups.parts[parts[0]][1]
        self.lm, self.parts, self.kind = lm, tuple(parts), lm.groups.kinds[group]
        self.index = {lm.groups.parts[part][0]: place for place, part in enumerate(parts)}
        heads = enumerate(lm.groups.members[group])
        self.members = tuple(own if layer in self.index else () for layer, own in heads)
        with_memory = self.kind.reach is None
        self.inserts, selects = with_memory and cache.has_open_beacons, with_memory and cache.selects
        slots = with_room(max(map(self.needed, states)))
        first = cache.layers[parts[0]].memory_k
        shape = (len(parts), len(cache.rows), first.shape[1], slots, first.shape[2])
        self.keys, self.values = first.new_zeros(shape), first.new_zeros(shape)
        overlap, opened = lm.beacon.overlap if with_memory else 0, width if self.inserts or selects else 0
        self.moving = Moving(self.keys, overlap, opened, selects)
        self.first = torch.zeros(len(cache.rows), dtype=torch.int64, device=first.device)

    @classmethod
    def all(cls, lm: BeaconModel, cache: BeaconCache, states: Sequence[RowState], width: int) -> "tuple[Buffers, ...]":
        """Make buffers for all parts of a cache and as many rows; nothing is loaded.

        Args:
            lm: the model.
            cache: a cache of as many rows.
            states: states that rows will have, for which there is room.
            width: most slots of an open window.
        """
        alike: dict[tuple[int, ...], list[int]] = {}
        for part, (_, group) in enumerate(lm.groups.parts):
            alike.setdefault((group, *cache.layers[part].memory_k.shape[1:]), []).append(part)
        return tuple(cls(lm, cache, parts, states, width) for parts in alike.values())

    @property
    def slots(self) -> int:
        """S."""
        return self.keys.shape[3]

    def steps(self, like: Tensor, places: Tensor, window: InWindow) -> dict[int, StaticStep]:
        """Make the step of each layer that reads one token for each row, and maybe runs a beacon behind each.

        Args:
            like: (P, D) embeddings.
            places: (P,) int64, the place up to which each new token sees; a raw token and a beacon in a layer with
                memory are written there.
            window: their places in the open windows.
        """
        batch = len(self.first)
        rows = torch.arange(len(places), device=places.device) % batch
        seen = self._seen(places, window)
        half = like.dtype in (torch.bfloat16, torch.float16)
        bias = torch.zeros(seen.shape, dtype=torch.float32 if half else like.dtype, device=places.device)
        bias = bias.masked_fill(~seen, float("-inf"))[:, None]
        slots = places
        if self.kind.reach is not None:  # where beacons leave nothing behind
            slots, places = places + self.first[rows], places.clone()
            places[batch:] = self.slots - 1
        rope = self.lm.rope(like, slots, self.kind)
        parts = zip(self.index, self.keys, self.values, self.moving.opened(window.slot), strict=True)
        return {
            layer: StaticStep(keys, values, rows, places, rope, bias, self.moving.selects, moving)
            for layer, keys, values, moving in parts
        }

    def _seen(self, places: Tensor, window: InWindow) -> Tensor:
        """Return (P, S) bool, the places that each new token sees. A token without a row sees itself alone."""
        indices, places = torch.arange(self.slots, device=places.device), places[:, None]
        seen = (indices <= places) & ((indices == places) | (places < self.slots - 1))
        if self.kind.reach is not None:
            return seen & (indices > places - self.kind.reach)
        if not (self.inserts and self.lm.beacon.placing.masked):
            return seen
        slot, overlap, ratio = (each[:, None] for each in window)
        at = indices - places + slot  # the slot of each place, counted from the window's first
        unit = torch.where(at >= 0, at // (ratio + 1), torch.where(at < -overlap, MEMORY, OVERLAP))
        keys = Tokens(unit, (at >= 0) & (at % (ratio + 1) == ratio))
        queries = Tokens(keys.unit.gather(1, places), keys.beacon.gather(1, places))
        return seen & self.lm.beacon.placing.sees(queries, keys)

    def used(self, state: RowState) -> int:
        """Return all slots that a row uses."""
        return sum(self.kind.entries(state))

    def needed(self, state: RowState) -> int:
        """Return the slots that a row needs when its open window is full."""
        beacons = beacons_of(state.capacity, state.ratio) if self.inserts else 0
        return self.before(state) + state.capacity + beacons

    def place(self, state: RowState, tokens: int, slots: int) -> int:
        """Return the place of a row's next token, after so many raw tokens and slots of the open window."""
        return self.before(state) + (slots if self.kind.reach is None else tokens)

    def before(self, state: RowState) -> int:
        """Return the slots of a row before its open window."""
        memory, overlap, _ = self.kind.entries(state)
        return memory + overlap

    def known(self, before: RowState, state: RowState) -> int:
        """Return how many slots of memory keep their places where a row goes on from one state to another."""
        return self.kind.entries(before).memory if self.kind.first_slot(before) == self.kind.first_slot(state) else 0

    def grow(self, slots: int) -> None:
        """Make room for a number of slots and for further windows, in new buffers."""
        self.keys, self.values = (_padded(buffer, with_room(slots)) for buffer in (self.keys, self.values))

    def load(self, place: int, cache: BeaconCache, row: int, known: int = 0) -> None:
        """Load one row of a cache into `place`, where its first `known` memory slots are already."""
        states = cache.rows[: row + 1]
        sizes = [self.kind.entries(state) for state in states]
        m, o, t = sizes[-1]
        self.first[place] = self.kind.first_slot(states[-1])
        start_m, _, start_t = (sum(size[:-1]) for size in zip(*sizes, strict=True))
        *moving_before, moving = (self.moving.count(*size[1:]) for size in sizes)
        start = sum(moving_before)

        def part(name: str, start: int, end: int) -> Tensor:
            return torch.stack([getattr(cache.layers[part], name)[start:end] for part in self.parts])

        names = ("moving_k", "own_k", "own_v")[: len(self.moving.buffers)]
        self.moving.load(place, self.moving.span(o, t), (part(name, start, start + moving) for name in names))
        for x, buffer in (("k", self.keys), ("v", self.values)):
            buffer[:, place, :, known:m] = part(f"memory_{x}", start_m + known, start_m + m).transpose(1, 2)
            buffer[:, place, :, m : m + o] = part(f"moving_{x}", start, start + o).transpose(1, 2)
            buffer[:, place, :, m + o : m + o + t] = part(f"open_{x}", start_t, start_t + t).transpose(1, 2)
        at, slots = self.first.new_tensor([[place]]), torch.arange(m, m + o, device=self.first.device)
        write_entries(self.keys, at, slots, self.rotated(read_entries(self.keys, at, slots)[0], slots)[None])

    def rotated(self, keys: Tensor, slots: Tensor) -> Tensor:
        """Apply RoPE in all parts at once: (n, parts K, H) at n slots -> (n, parts K, H)."""
        every = rotated_layers(self.lm.config)
        turned = [every[layer] for layer in self.index]
        if not any(turned) or len(keys) == 0:
            return keys
        attention = self.lm.model.layers[[*self.index][turned.index(True)]].self_attn
        new = attention.rotate(keys, *self.lm.rope(keys, slots, self.kind))
        if all(turned):
            return new
        both = zip(new.chunk(len(turned), 1), keys.chunk(len(turned), 1), strict=True)
        return torch.cat([pair[0 if turn else 1] for turn, pair in zip(turned, both, strict=True)], 1)

    def layers(self, places: Sequence[int], states: Sequence[RowState]) -> tuple[LayerState, ...]:
        """Return keys and values of some rows, as caches hold them: for each of `parts`."""
        sizes = [(place, *self.kind.entries(state)) for place, state in zip(places, states, strict=True)]
        memory = [(place, slice(m)) for place, m, _, _ in sizes]
        opened = [(place, slice(m + o, m + o + t)) for place, m, o, t in sizes]
        values = [(place, slice(m, m + self.moving.count(o, t))) for place, m, o, t in sizes]
        moving = [(place, self.moving.span(o, t)) for place, _, o, t in sizes]
        kinds = (_rows(buffer, spans) for spans in (memory, opened) for buffer in (self.keys, self.values))
        moving_k, *own = (_rows(buffer, moving) for buffer in self.moving.buffers)
        own = own or [moving_k[:, :0]] * 2
        parts = zip(*kinds, moving_k, _rows(self.values, values), *own, strict=True)
        return tuple(LayerState(*tensors) for tensors in parts)

    def reorder(self, places: Tensor) -> None:
        """Copy row `places[i]` into row i, for every i."""
        for layer in chain(self.keys, self.values, *self.moving.buffers):
            layer.copy_(layer[places])
        self.first.copy_(self.first[places])


def _padded(buffer: Tensor, slots: int) -> Tensor:
    grown = buffer.new_zeros(*buffer.shape[:3], slots, buffer.shape[4])
    grown[:, :, :, : buffer.shape[3]] = buffer
    return grown


def with_room(slots: int) -> int:
    """Return S for a number of slots: with the scratch place, and with up to an eighth more for further windows."""
    return max(slots // CHUNK + 1, (slots + slots // 8) // CHUNK) * CHUNK


def _rows(buffer: Tensor, spans: Sequence[tuple[int, slice]]) -> Tensor:
    """Put spans of rows end to end: (parts, B, K, S, H) -> (parts, n, K, H)."""
    return torch.cat([buffer[:, row, :, span].transpose(1, 2) for row, span in spans], 1)
