"""Index arithmetic: row lengths and ratios -> where every query and key comes from, and at which slot.

Shape legend: R raw tokens, P packed tokens (raw + beacon), S keys of all windows, W windows; of all rows together.

The hidden states travel through the model in *stream order*, `[raw tokens of all rows | beacons]`, so that the raw and
the beacon projections each run on one contiguous slice. Attention sees them in *window order*: each window is one
sequence of a variable-length attention call, its queries its own tokens, its keys `[memory | overlap | own]`, causal
and aligned at the end. A window of 4 tokens at ratio 2, after one of the same with a sink of 1 and an overlap of 1:

    queries           t4  t5  b2  t6  t7  b3
    keys   t0  b0  b1  t3  t4  t5  b2  t6  t7  b3
    slot    0   1   2   3   4   5   6   7   8   9
           sink memory  overlap   window
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beacon_lit.arch.config import BeaconConfig
from beacon_lit.arch.placements import MEMORY, OVERLAP, Placement, Tokens
from beacon_lit.arch.plan.rows import move
from beacon_lit.arch.plan.windows import Row, Window
from beacon_lit.arch.ratios import Ratio


@dataclass(frozen=True, eq=False)
class Layout:
    """One attention step over all windows of all rows.

    Attributes:
        raw: R; stream positions from here on are beacons.
        beacons: P - R.
        q_index, q_slot: (Q,) int64, stream position and slot of each query, in window order. Q is P, or R where
            beacons do not run.
        k_index, k_slot: (S,) int64, the same of each key.
        stream_index: (Q,) int64, where in window order each stream position is.
        k_own: (P,) int64, where each stream position comes first among the keys.
        k_shared: int64, all other places.
        k_unread: (n,) int64, stream positions that no query sees; their `k_own` means nothing.
        none: (0,) int64.
        cu_q, cu_k: (W + 1,) int32, cumulative lengths of the windows' queries and keys.
        lengths: (queries, keys) of each window.
        visibility: who sees whom, where causal is not all of the rule; else None.
        selection: of what the beacons are made, where they do not run; else None.
        cached: how to go on from a cache and make the next one; None without caches.
    """

    raw: int
    beacons: int
    q_index: Tensor
    q_slot: Tensor
    k_index: Tensor
    k_slot: Tensor
    stream_index: Tensor
    k_own: Tensor
    k_shared: Tensor
    k_unread: Tensor
    none: Tensor
    cu_q: Tensor
    cu_k: Tensor
    lengths: tuple[tuple[int, int], ...]
    visibility: "Visibility | None" = None
    selection: "Selection | None" = None
    cached: "CachedLayout | None" = None

    @property
    def max_q(self) -> int:
        """Queries of the longest window."""
        return max(queries for queries, _ in self.lengths)

    @property
    def max_k(self) -> int:
        """Keys of the window that has most."""
        return max(keys for _, keys in self.lengths)

    def to(self, device: torch.device) -> "Layout":
        """The same with its tensors on `device`."""
        if self.q_index.device == device:
            return self
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: move(value, device) for name, value in tensors.items()}
        parts = {"visibility": self.visibility, "selection": self.selection, "cached": self.cached}
        moved |= {name: None if part is None else part.to(device) for name, part in parts.items()}
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class Visibility:
    """What of the keys before it a query sees, by a placement's rule; see `placements.Tokens`.

    Attributes:
        placement: the rule.
        unit: (S,) int64, of each key. The last T keys of a window are its queries.
        beacon: (S,) bool, whether it is a beacon of its window.
    """

    placement: Placement
    unit: Tensor
    beacon: Tensor

    def to(self, device: torch.device) -> "Visibility":
        """The same with its tensors on `device`."""
        return replace(self, unit=move(self.unit, device), beacon=move(self.beacon, device))

    def of(self, queries: slice, keys: slice) -> Tensor:
        """(Q, K) bool: whether those of the keys that are queries see others; the causal rule comes on top."""
        query = Tokens(self.unit[queries, None], self.beacon[queries, None])
        return self.placement.sees(query, Tokens(self.unit[keys], self.beacon[keys]))


@dataclass(frozen=True, eq=False)
class Selection:
    """Which raw tokens beacons are selected from; C windows close, of w raw tokens each, with B beacons together.

    Attributes:
        tokens: (C, w) int64, stream positions of each window's raw tokens.
        allowed: (C, w) bool, those that can be selected: not the sink, which is in memory as it is.
        counts: (C,) int64, beacons of each window.
        most: the largest of them.
        window, place: (B,) int64, of each beacon its window among the C, and its number in it.
    """

    tokens: Tensor
    allowed: Tensor
    counts: Tensor
    most: int
    window: Tensor
    place: Tensor

    def to(self, device: torch.device) -> "Selection":
        """The same with its tensors on `device`."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: move(value, device) for name, value in tensors.items()}
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class CachedLayout:
    """Where keys and values of a cache come in, and where those of the next cache come from.

    Places are counted over `[stream | moving]`, what this call computes and the cache's keys that are not rotated, and
    over `[rotated | fixed]`, keys that this call rotates and the cache's that stay as they are, `[memory | open]`.

    Attributes:
        keys: (S,) int64, places over `[rotated | fixed]`; `Layout.k_index`, `k_slot` say what is rotated.
        values: (S,) int64, places over `[stream | moving | fixed]`.
        fresh_index, fresh_slot: (n,) int64, places over `[stream | moving]` of what becomes fixed, and its slots.
        memory: (M,) int64, the next cache's memory, places over `[fixed | fresh]`; None: it stays as it is.
        open: (T,) int64, the open windows, over the same.
        moving: (C,) int64, its moving entries, places over `[stream | moving]`.
        hidden: (rows + open tokens,) int64, its hidden states, places over `[stream | those of the cache]`.
        new: (N,) int64, stream positions of the raw tokens that are new in this call, not run again.
    """

    keys: Tensor
    values: Tensor
    fresh_index: Tensor
    fresh_slot: Tensor
    memory: Tensor | None
    open: Tensor
    moving: Tensor
    hidden: Tensor
    new: Tensor

    def to(self, device: torch.device) -> "CachedLayout":
        """The same with its tensors on `device`."""
        tensors = {name: value for name, value in vars(self).items() if value is not None}
        moved: dict[str, Any] = {name: move(value, device) for name, value in tensors.items()}
        return replace(self, **moved)


@lru_cache(maxsize=8)  # random ratios never repeat; evaluation does
def build_layout(rows: tuple[Row, ...], config: BeaconConfig, cached: bool = False, moving: bool = False) -> Layout:
    """Lay out one call. Tensors are on the CPU.

    Args:
        rows: what the call does to each row, see `windows.plan`.
        config: sink, overlap and placement are read.
        cached: whether the call goes on from a cache or makes one.
        moving: whether open windows hold beacons, which will move.
    """
    raw = sum(window.length for row in rows for window in row.windows)
    packed = raw + sum(window.beacons for row in rows for window in row.windows)
    parts: list[_Window] = []
    ends: list[_End] = []
    at = _Cursor(token=0, beacon=raw, moving=packed, memory=0, open=sum(row.memory for row in rows))
    for row in rows:
        found, end, at = _walk(row, config, at, moving)
        parts += found
        ends.append(end)
    own = np.concatenate([part.own for part in parts])
    keys = np.concatenate([part.keys for part in parts])
    lengths = tuple((len(part.own), len(part.keys)) for part in parts)
    stream = np.empty(len(own), np.int64)
    stream[own] = np.arange(len(own))
    first = np.full(packed, -1)
    new = np.flatnonzero((keys >= 0) & (keys < packed))[::-1]
    first[keys[new]] = new  # backwards, so that the first place of several stays
    shared = np.ones(len(keys), bool)
    shared[first[first >= 0]] = False
    slots = np.concatenate([part.slots for part in parts])
    placing = config.placing
    masked = placing.masked and packed > raw
    rotated = keys >= 0 if cached else slice(None)
    return Layout(
        raw=raw,
        beacons=packed - raw,
        q_index=torch.from_numpy(own),
        q_slot=torch.from_numpy(np.concatenate([part.slots[len(part.slots) - len(part.own) :] for part in parts])),
        k_index=torch.from_numpy(keys[rotated]),
        k_slot=torch.from_numpy(slots[rotated]),
        stream_index=torch.from_numpy(stream),
        k_own=torch.from_numpy(np.maximum(first, 0)),
        k_shared=torch.from_numpy(np.flatnonzero(shared)),
        k_unread=torch.from_numpy(np.flatnonzero(first < 0)),
        none=torch.empty(0, dtype=torch.int64),
        cu_q=_cumulative([queries for queries, _ in lengths]),
        cu_k=_cumulative([keys for _, keys in lengths]),
        lengths=lengths,
        visibility=_visibility(placing, parts, raw) if masked else None,
        selection=None if placing.runs or packed == raw else _selection(rows, config),
        cached=_cached_layout(keys, ends, at.moving, rows) if cached else None,
    )


# References to keys: p >= 0 is the p-th of [stream | moving], r < 0 the (-r - 1)-th of the cache's fixed entries.
@dataclass(frozen=True)
class _Window:
    """References to a window's own tokens in the placement's order, and to its keys with their slots.

    Its keys begin with so many of memory and of the overlap.
    """

    window: Window
    own: np.ndarray
    keys: np.ndarray
    slots: np.ndarray
    memory: int
    overlap: int


@dataclass(frozen=True)
class _End:
    """References to what a row leaves: memory and open window, and entries that will move; slots of the open window."""

    memory: np.ndarray
    open: np.ndarray
    open_slots: np.ndarray
    moving: np.ndarray


@dataclass(frozen=True)
class _Cursor:
    """The next raw token and beacon; the cache's next moving entry, and fixed ones of memory and of open windows."""

    token: int
    beacon: int
    moving: int
    memory: int
    open: int


def _walk(row: Row, config: BeaconConfig, at: _Cursor, moving: bool) -> tuple[list[_Window], _End, _Cursor]:
    """One row, window by window."""
    memory = -1 - np.arange(at.memory, at.memory + row.memory)
    tail = np.arange(at.moving, at.moving + row.overlap)
    past = -1 - np.arange(at.open, at.open + row.open_slots)
    past_moving = np.arange(at.moving + row.overlap, at.moving + row.overlap + (row.open_slots if moving else 0))
    token, beacon, position = at.token, at.beacon, row.start - row.windows[0].past
    empty = np.empty(0, np.int64)
    parts, opened, opened_slots, opened_moving = [], empty, empty, empty
    for i, window in enumerate(row.windows):
        before = past[: window.past_slots] if i == 0 else empty
        before_moving = past_moving[: window.past_slots] if i == 0 else empty
        tokens, beacons = np.arange(token, token + window.length), np.arange(beacon, beacon + window.beacons)
        token, beacon = token + window.length, beacon + window.beacons
        own, offset = _arrange(tokens, beacons, window, config.placing)
        base = len(memory) + len(tail)
        slots = base + np.concatenate([np.arange(len(before)), len(before) + offset])
        keys = np.concatenate([memory, tail, before, own])
        parts.append(_Window(window, own, keys, np.concatenate([np.arange(base), slots]), len(memory), len(tail)))
        if window.closes:
            is_beacon = _past_beacons(window)
            raw_tokens = np.concatenate([before_moving[~is_beacon[: len(before_moving)]], tokens])
            all_beacons = np.concatenate([before_moving[is_beacon[: len(before_moving)]], beacons])
            memory, tail = _join(memory, raw_tokens, all_beacons, window.ratio, position, config)
        else:
            opened, opened_slots = np.concatenate([before, own]), slots
            opened_moving = np.concatenate([before_moving, own]) if moving else empty
        position += window.size
    end = _End(memory, opened, opened_slots, np.concatenate([tail, opened_moving]))
    moved = row.overlap + (row.open_slots if moving else 0)
    after = _Cursor(token, beacon, at.moving + moved, at.memory + row.memory, at.open + row.open_slots)
    return parts, end, after


def _join(
    memory: np.ndarray, tokens: np.ndarray, beacons: np.ndarray, ratio: Ratio, position: int, config: BeaconConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Memory and overlap after a window of these tokens has closed, its first at `position` of the sequence."""
    if ratio == "drop":
        return memory, tokens[:0]
    if ratio == 0:
        return np.concatenate([memory, tokens]), tokens[:0]
    sink = tokens[: max(config.sink - position, 0)]
    return np.concatenate([memory, sink, beacons]), tokens[max(len(tokens) - config.overlap, 0) :]


def _past_beacons(window: Window) -> np.ndarray:
    """Which of a window's cached slots are beacons."""
    if window.past_slots == window.past:
        return np.zeros(window.past_slots, bool)
    step = int(window.ratio) + 1
    return np.arange(window.past_slots) % step == step - 1


def _arrange(
    tokens: np.ndarray, beacons: np.ndarray, window: Window, placement: Placement
) -> tuple[np.ndarray, np.ndarray]:
    """A window's new tokens that run, in the placement's order, and the slot of each counted from the first of them."""
    both = np.concatenate([tokens, beacons])
    if len(beacons) == 0:
        return both, np.arange(len(both))
    arranged = placement.arrange(len(tokens), len(beacons), int(window.ratio), window.past)
    return both[arranged.order], arranged.slots


def _selection(rows: Sequence[Row], config: BeaconConfig) -> Selection:
    tokens, allowed, counts, stream = [], [], [], 0
    for row in rows:
        position = row.start  # of the window's first token in the sequence; a window that closes runs as a whole
        for window in row.windows:
            if window.beacons:
                tokens.append(stream + np.arange(window.length))
                allowed.append(position + np.arange(window.length) >= config.sink)
                counts.append(window.beacons)
            stream, position = stream + window.length, position + window.length
    sizes = np.array(counts)
    return Selection(
        tokens=torch.from_numpy(np.stack(tokens)),
        allowed=torch.from_numpy(np.stack(allowed)),
        counts=torch.from_numpy(sizes),
        most=int(sizes.max()),
        window=torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
        place=torch.from_numpy(np.concatenate([np.arange(count) for count in counts])),
    )


def _visibility(placement: Placement, parts: Sequence[_Window], raw: int) -> Visibility:
    units, beacons = [], []
    for part in parts:
        is_beacon = np.concatenate([_past_beacons(part.window), part.own >= raw])
        ratio = int(part.window.ratio) if is_beacon.any() else part.window.size
        unit = np.where(is_beacon, np.cumsum(is_beacon) - 1, (np.cumsum(~is_beacon) - 1) // ratio)
        units += [np.repeat([MEMORY, OVERLAP], [part.memory, part.overlap]), unit]
        beacons += [np.zeros(part.memory + part.overlap, bool), is_beacon]
    return Visibility(placement, torch.from_numpy(np.concatenate(units)), torch.from_numpy(np.concatenate(beacons)))


def _cached_layout(keys: np.ndarray, ends: Sequence[_End], moving_end: int, rows: Sequence[Row]) -> CachedLayout:
    rotated = keys >= 0
    places = np.where(rotated, np.cumsum(rotated) - 1, rotated.sum() - 1 - keys)
    memory = np.concatenate([end.memory for end in ends])
    fixed = np.concatenate([memory, *(end.open for end in ends)])
    slots = np.concatenate([*(np.arange(len(end.memory)) for end in ends), *(end.open_slots for end in ends)])
    fresh = fixed >= 0
    held = sum(row.memory + row.open_slots for row in rows)
    next_fixed = np.where(fresh, held + np.cumsum(fresh) - 1, -1 - fixed)
    unchanged = np.array_equal(memory, -1 - np.arange(sum(row.memory for row in rows)))
    starts = np.cumsum([0, *(sum(window.length for window in row.windows) for row in rows)])
    new = [np.arange(start + row.again, end) for start, end, row in zip(starts, starts[1:], rows, strict=False)]
    arrays = {
        "keys": places,
        "values": np.where(rotated, keys, moving_end - 1 - keys),
        "fresh_index": fixed[fresh],
        "fresh_slot": slots[fresh],
        "memory": next_fixed[: len(memory)],
        "open": next_fixed[len(memory) :],
        "moving": np.concatenate([end.moving for end in ends]),
        "hidden": _hidden_places(rows),
        "new": np.concatenate(new),
    }
    tensors: dict[str, Any] = {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}
    return CachedLayout(**{**tensors, "memory": None if unchanged else tensors["memory"]})


def _hidden_places(rows: Sequence[Row]) -> np.ndarray:
    """Where each row's hidden states `[last token before the open window | open window]` are after the call."""
    stream, held = 0, sum(window.length for row in rows for window in row.windows)
    places = []
    for row in rows:
        length, last = sum(window.length for window in row.windows), row.windows[-1]
        first = row.start - row.windows[0].past - 1  # position in the sequence of the row's first cached hidden state
        end = row.start + length
        wanted = np.arange(end - (0 if last.closes else last.size) - 1, end)
        places.append(np.where(wanted < row.start, held + wanted - first, stream + wanted - row.start))
        stream, held = stream + length, held + 1 + row.windows[0].past + row.again
    return np.concatenate(places)


def _cumulative(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
