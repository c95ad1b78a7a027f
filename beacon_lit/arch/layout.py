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
from beacon_lit.arch.ratio import Ratio, longest


@dataclass(frozen=True)
class Window:
    """One window of a row: raw tokens, ratio (α, 0 = kept raw, "drop"), and how many beacons it holds."""

    length: int
    ratio: Ratio
    beacons: int


@dataclass(frozen=True, eq=False)
class Layout:
    """One attention step over all windows of all rows.

    Attributes:
        raw: R; stream positions from here on are beacons.
        beacons: P - R.
        q_index, q_slot: (P,) int64, stream position and slot of each query, in window order.
        k_index, k_slot: (S,) int64, the same of each key.
        stream_index: (P,) int64, where in window order each stream position is.
        k_own: (P,) int64, where among the keys of its own window each stream position is.
        k_shared: (S - P,) int64, places of memory and overlap keys; together with `k_own` all places.
        none: (0,) int64.
        cu_q, cu_k: (W + 1,) int32, cumulative lengths of the windows' queries and keys.
        lengths: (queries, keys) of each window.
        blind: raw tokens do not see the beacons of their own window, so causal is not all of the visibility rule.
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
    none: Tensor
    cu_q: Tensor
    cu_k: Tensor
    lengths: tuple[tuple[int, int], ...]
    blind: bool

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
        tensors: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        if device.type == "cuda":  # from pinned memory the copies queue behind the running step
            tensors = {name: value.pin_memory() for name, value in tensors.items()}
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in tensors.items()})


def window_counts(lengths: Sequence[int], window: int) -> list[int]:
    """Windows of each row, an unfinished last one included."""
    return [-(-length // window) for length in lengths]


def plan(
    lengths: Sequence[int], ratios: Sequence[Sequence[Ratio]], config: BeaconConfig, unfinished: str
) -> tuple[tuple[Window, ...], ...]:
    """Cut rows into windows.

    Args:
        lengths: raw tokens of each row.
        ratios: for each row, the ratio of each window.
        config: the beacon settings.
        unfinished: "raw": the last window of a row, full or not, holds no beacons; "beacons": it does.
    """
    rows = []
    for length, chosen in zip(lengths, ratios, strict=True):
        row, count = [], len(chosen)
        for i, ratio in enumerate(chosen):
            size = min(config.window, length - i * config.window)
            is_open = i == count - 1
            filled = size == config.window or config.placement == "interleave"
            has_beacons = isinstance(ratio, int) and ratio > 0 and filled and not (is_open and unfinished == "raw")
            row.append(Window(size, ratio, size // int(ratio) if has_beacons else 0))
        rows.append(tuple(row))
    return tuple(rows)


def check_positions(rows: Sequence[Sequence[Window]], config: BeaconConfig, positions: int) -> None:
    """ValueError, with the longest supported length, if a row needs more slots than the backbone has positions."""
    for number, row in enumerate(rows):
        memory = 0
        for i, window in enumerate(row):
            tail = config.overlap if i and row[i - 1].beacons else 0
            needed = memory + tail + window.length + window.beacons
            if needed > positions:
                length = sum(part.length for part in row)
                supported = ", ".join(
                    f"{longest(config, ratio, positions)} tokens at ratio {ratio}" for ratio in config.ratios
                )
                raise ValueError(
                    f"row {number} of {length} tokens needs {needed} position slots in window {i}, the backbone has "
                    f"{positions} (max_position_embeddings); longest supported, with room to go on: {supported}"
                )
            memory += _kept(window, config.sink - sum(part.length for part in row[:i]))


def _kept(window: Window, sink: int) -> int:
    """Memory slots that a closed window leaves, `sink` of the sequence's sink tokens still being in it or behind."""
    if window.ratio == "drop":
        return 0
    if window.ratio == 0:
        return window.length
    return min(max(sink, 0), window.length) + window.beacons


@lru_cache(maxsize=8)  # random ratios never repeat; evaluation does
def build_layout(rows: tuple[tuple[Window, ...], ...], config: BeaconConfig) -> Layout:
    """Lay out windows for one attention call. Tensors are on the CPU.

    Args:
        rows: windows of each row, see `plan`.
        config: sink, overlap and placement are read.
    """
    raw = sum(window.length for row in rows for window in row)
    q_index, q_slot, k_index, k_slot, own_place = [], [], [], [], []
    first, beacon, keys = 0, raw, 0  # next raw and beacon stream position, and key place
    for row in rows:
        start = first
        memory = np.empty(0, np.int64)
        tail = memory
        for window in row:
            tokens = np.arange(first, first + window.length)
            beacons = np.arange(beacon, beacon + window.beacons)
            first, beacon = first + window.length, beacon + window.beacons
            own, offset = _arrange(tokens, beacons, window, config.placement)
            base = len(memory) + len(tail)
            q_index.append(own)
            q_slot.append(base + offset)
            k_index += [memory, tail, own]
            k_slot += [np.arange(base), base + offset]
            own_place.append(keys + base + np.arange(len(own)))
            keys += base + len(own)
            if window.ratio == "drop":
                tail = tail[:0]
            elif window.ratio == 0:
                memory, tail = np.concatenate([memory, tokens]), tail[:0]
            else:
                memory = np.concatenate([memory, tokens[tokens < start + config.sink], beacons])
                tail = tokens[max(window.length - config.overlap, 0) :]
    queries, places = np.concatenate(q_index), np.concatenate(own_place)
    stream = np.empty_like(queries)
    stream[queries] = np.arange(len(queries))
    lengths = tuple((len(q), sum(map(len, k_index[3 * i : 3 * i + 3]))) for i, q in enumerate(q_index))
    return Layout(
        raw=raw,
        beacons=beacon - raw,
        q_index=torch.from_numpy(queries),
        q_slot=torch.from_numpy(np.concatenate(q_slot)),
        k_index=torch.from_numpy(np.concatenate(k_index)),
        k_slot=torch.from_numpy(np.concatenate(k_slot)),
        stream_index=torch.from_numpy(stream),
        k_own=torch.from_numpy(places[stream]),
        k_shared=torch.from_numpy(np.setdiff1d(np.arange(keys), places, assume_unique=True)),
        none=torch.empty(0, dtype=torch.int64),
        cu_q=_cumulative([queries for queries, _ in lengths]),
        cu_k=_cumulative([keys for _, keys in lengths]),
        lengths=lengths,
        blind=config.placement == "step-expansion" and beacon > raw,
    )


def _arrange(tokens: np.ndarray, beacons: np.ndarray, window: Window, placement: str) -> tuple[np.ndarray, np.ndarray]:
    """A window's own tokens in visibility order, and the slot of each counted from the window's first."""
    size, count = len(tokens), len(beacons)
    if placement == "append" or count == 0:
        return np.concatenate([tokens, beacons]), np.arange(size + count)
    ratio = int(window.ratio)
    own = np.empty(size + count, np.int64)
    beacon_at = (np.arange(count) + 1) * (ratio + 1) - 1
    token_at = np.arange(size) + np.minimum(np.arange(size) // ratio, count)
    own[token_at], own[beacon_at] = tokens, beacons
    offset = np.arange(size + count)
    if placement == "step-expansion":  # a slot counts what is seen before it, and raw tokens see no beacons
        offset[token_at] = np.arange(size)
    return own, offset


def _cumulative(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
