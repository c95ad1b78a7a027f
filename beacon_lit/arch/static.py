"""Keys and values in buffers that stay where they are: what decoding token by token reads and writes.

`S` slots a row: a key lies at the index of its slot, `[memory | overlap | open window]`, and the last index is scratch,
for rows that read nothing in a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from beacon_lit.arch.cache import BeaconCache, LayerState, RowState

if TYPE_CHECKING:
    from beacon_lit.arch.attention import BeaconAttention, Rope
    from beacon_lit.arch.model import BeaconLM

CHUNK = 512  # slots that one product over values sums; S is a multiple


@dataclass(frozen=True, eq=False)
class StaticStep:
    """One new raw token for every row, as an `attention.Step`.

    Attributes:
        keys, values: (B, K, S, H) of each layer; the new token's are written into them.
        slots: (B,) int64, the new tokens' slots.
        rope: cos and sin at these.
        bias: (B, 1, S) 0 for slots that a row sees, -inf for others.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    slots: Tensor
    rope: "Rope"
    bias: Tensor

    @property
    def raw(self) -> int:
        """All tokens are raw."""
        return len(self.slots)

    def attend(self, attention: "BeaconAttention", q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, N, H), k and v (B, K, H), not rotated -> (B, N, H)."""
        keys, values = self.keys[attention.layer_idx], self.values[attention.layer_idx]
        rows = torch.arange(len(q), device=q.device)
        keys[rows, :, self.slots] = attention.rotate(k, *self.rope)
        values[rows, :, self.slots] = v
        return attend(attention.rotate(q, *self.rope), keys, values, self.bias, attention.scaling)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Attention of one query a row, as matrix products that spread over the slots.

    Args:
        q: (B, N, H).
        k, v: (B, K, S, H), S a multiple of `CHUNK`, N of K.
        bias: (B, 1, S), added to the scaled products, in the dtype that they are computed in.
        scale: of the products.
    """
    batch, heads, _, dim = k.shape
    q = q.unflatten(1, (heads, -1)).flatten(0, 1)  # (B K, group, H)
    scores = _product(q, k.flatten(0, 1).transpose(1, 2), bias.dtype).unflatten(0, (batch, heads))
    weights = torch.add(bias[:, None], scores, alpha=scale).softmax(-1)
    parts = weights.unflatten(-1, (-1, CHUNK)).transpose(2, 3).to(v.dtype, memory_format=torch.contiguous_format)
    out = _product(parts.flatten(0, 2), v.reshape(-1, CHUNK, dim), bias.dtype)
    return out.unflatten(0, (batch, heads, -1)).sum(2).to(q.dtype).flatten(1, 2)


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Batched product in `dtype`. CUDA multiplies halves into float32; elsewhere they are converted first."""
    if a.dtype == dtype:
        return torch.bmm(a, b)
    return torch.bmm(a, b, out_dtype=dtype) if a.is_cuda else torch.bmm(a.to(dtype), b.to(dtype))


class Buffers:
    """Keys and values of every layer for a batch of rows, loaded from caches and read back into caches."""

    def __init__(self, lm: "BeaconLM", cache: BeaconCache, slots: int) -> None:
        first = cache.layers[0].memory_k
        shape = (len(cache.rows), first.shape[1], round_up(slots), first.shape[2])
        self.lm = lm
        self.keys = [first.new_zeros(shape) for _ in cache.layers]
        self.values = [first.new_zeros(shape) for _ in cache.layers]
        # Overlap keys lie rotated in the buffers; they move when the window closes, and are kept unrotated here.
        self.tails: list[list[tuple[Tensor, Tensor]]] = [[] for _ in cache.rows]

    @property
    def slots(self) -> int:
        """S."""
        return self.keys[0].shape[2]

    def grow(self, slots: int) -> None:
        """Make room for so many slots. The buffers are then others."""
        for buffers in (self.keys, self.values):
            for i, old in enumerate(buffers):
                batch, heads, had, dim = old.shape
                buffers[i] = old.new_zeros(batch, heads, round_up(slots), dim)
                buffers[i][:, :, :had] = old

    def load(self, place: int, cache: BeaconCache, row: int, known: int = 0) -> None:
        """Put one row of a cache at `place`; its first `known` memory slots are there already."""
        state, before = cache.rows[row], cache.rows[:row]
        m, o, t = state.memory_slots, state.overlap_slots, state.window_slots
        start_m = sum(other.memory_slots for other in before)
        start_o = sum(other.overlap_slots for other in before)
        start_t = sum(other.window_slots for other in before)
        rope = self.lm._rope(cache.hidden, torch.arange(m, m + o, device=cache.hidden.device))
        self.tails[place] = []
        for i, layer in enumerate(cache.layers):
            tail_k, tail_v = layer.moving_k[start_o : start_o + o], layer.moving_v[start_o : start_o + o]
            self.tails[place].append((tail_k, tail_v))
            tail_k = self.lm.attention_class.rotate(tail_k, *rope)
            for buffer, memory, tail, opened in (
                (self.keys[i][place], layer.memory_k, tail_k, layer.open_k),
                (self.values[i][place], layer.memory_v, tail_v, layer.open_v),
            ):
                buffer[:, known:m] = memory[start_m + known : start_m + m].transpose(0, 1)
                buffer[:, m : m + o] = tail.transpose(0, 1)
                buffer[:, m + o : m + o + t] = opened[start_t : start_t + t].transpose(0, 1)

    def layers(self, places: Sequence[int], states: Sequence[RowState]) -> tuple[LayerState, ...]:
        """Keys and values of some rows, as caches hold them."""
        return tuple(self._layer(i, places, states) for i in range(len(self.keys)))

    def _layer(self, i: int, places: Sequence[int], states: Sequence[RowState]) -> LayerState:
        memory = [(place, 0, state.memory_slots) for place, state in zip(places, states, strict=True)]
        opened = [
            (place, state.slots - state.window_slots, state.slots) for place, state in zip(places, states, strict=True)
        ]
        tails = [self.tails[place][i] for place in places]
        return LayerState(
            memory_k=_rows(self.keys[i], memory),
            memory_v=_rows(self.values[i], memory),
            open_k=_rows(self.keys[i], opened),
            open_v=_rows(self.values[i], opened),
            moving_k=torch.cat([k for k, _ in tails]),
            moving_v=torch.cat([v for _, v in tails]),
        )

    def reorder(self, places: Tensor) -> None:
        """Put at each place what is at `places[place]`."""
        for buffer in (*self.keys, *self.values):
            buffer.copy_(buffer[places])
        self.tails = [self.tails[place] for place in places.tolist()]


def round_up(slots: int) -> int:
    """The next multiple of `CHUNK`, scratch slot included."""
    return -(-(slots + 1) // CHUNK) * CHUNK


def _rows(buffer: Tensor, parts: Sequence[tuple[int, int, int]]) -> Tensor:
    """(B, K, S, H) -> (n, K, H): parts (row, start, end), end to end."""
    return torch.cat([buffer[row, :, start:end].transpose(0, 1) for row, start, end in parts])
