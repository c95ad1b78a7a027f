"""Index arithmetic: what a call does to its rows -> the index tensors of its attention step (`layout`)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from beacon_lit.arch.config import BeaconConfig
from beacon_lit.arch.placements import MEMORY, OVERLAP, Placement
from beacon_lit.arch.plan.layout import CachedLayout, Layout, Selection, Visibility
from beacon_lit.arch.plan.references import Attended, End
from beacon_lit.arch.plan.sliding import walk_sliding
from beacon_lit.arch.plan.windows import Row, Window
from beacon_lit.arch.ratios import Ratio


def build_layout(
    rows: tuple[Row, ...],
    config: BeaconConfig,
    cached: bool = False,
    moving: bool = False,
    reach: int | None = None,
) -> Layout:
    """Lay out one call in layers of one kind. Tensors are on the CPU.

    Args:
        rows: what the call does to each row in these layers, see `windows.plan` and `LayerKind.rows`.
        config: `sink`, `overlap` and `placement` are read.
        cached: whether the call continues from a cache or makes one.
        moving: with `cached`, whether open windows close without a second reading, so that their entries get other
            slots.
        reach: how many raw tokens a query sees in layers with a sliding window; None: layers with memory.
    """
    return _built(rows, config, cached, cached and moving, reach)


@lru_cache(maxsize=8)  # random ratios never repeat; evaluation does, and so does who counts the work of a pass
def _built(rows: tuple[Row, ...], config: BeaconConfig, cached: bool, moving: bool, reach: int | None) -> Layout:
    """Do what `build_layout` does, and keep the last layouts."""
    placing = config.placing
    raw = sum(window.length for row in rows for window in row.windows)
    packed = raw + sum(window.beacons for row in rows for window in row.windows)
    if reach is None:
        at = _Cursor(0, raw, packed, 0, sum(row.memory for row in rows))
        windows, ends, moving_end = _walk(rows, config, at, moving)
        attended = [one for one in windows if len(one.queries)]  # a full window can close without new tokens
        layout = _assembled(attended, ends, rows, raw, packed, moving_end, cached)
        if placing.runs:
            return replace(
                layout, visibility=_visibility(placing, windows, raw) if placing.masked and packed > raw else None
            )
        return replace(
            layout,
            selection=_selection(windows, config, raw, packed) if packed > raw else None,
            cached=layout.cached and replace(layout.cached, own=_without_beacons(layout.cached.moving, raw, packed)),
        )
    packed = packed if placing.runs else raw
    sequences, ends = walk_sliding(rows, reach, raw, placing.runs)
    return replace(_assembled(sequences, ends, rows, raw, packed, packed, cached), reach=reach)


def _assembled(
    sequences: Sequence[Attended],
    ends: Sequence[End],
    rows: Sequence[Row],
    raw: int,
    packed: int,
    moving_end: int,
    cached: bool,
) -> Layout:
    """Turn references into index tensors; `moving_end` is the length of `[stream | moving]`."""
    queries = np.concatenate([one.queries for one in sequences])
    keys = np.concatenate([one.keys for one in sequences])
    slots = np.concatenate([one.slots for one in sequences])
    lengths = tuple((len(one.queries), len(one.keys)) for one in sequences)
    order, inverse = np.arange(len(queries)), np.empty(queries.max() + 1, np.int64)
    inverse[queries[::-1]] = order[::-1]  # backwards, so that the first place of several stays
    first, repeats = _places(keys, packed)
    rotated = keys >= 0 if cached else slice(None)
    return Layout(
        raw=raw,
        beacons=packed - raw,
        q_index=torch.from_numpy(queries),
        q_slot=torch.from_numpy(np.concatenate([one.slots[len(one.slots) - len(one.queries) :] for one in sequences])),
        k_index=torch.from_numpy(keys[rotated]),
        k_slot=torch.from_numpy(slots[rotated]),
        stream_index=torch.from_numpy(inverse),
        k_first=torch.from_numpy(np.maximum(first, 0)),
        k_repeats=torch.from_numpy(repeats),
        k_unread=torch.from_numpy(np.flatnonzero(first < 0)),
        q_unread=torch.from_numpy(np.flatnonzero(inverse[queries] != order)),
        cu_q=_cumulative([count for count, _ in lengths]),
        cu_k=_cumulative([count for _, count in lengths]),
        lengths=lengths,
        cached=_cached_layout(keys, ends, moving_end, rows) if cached else None,
    )


@dataclass(frozen=True)
class _KeysOfWindow(Attended):
    """References to a window's queries in the placement's order, and to its keys `[memory | overlap | window]`.

    Attributes:
        window: the window.
        position: position in the sequence of the window's first token.
        tokens: references to all raw tokens of the window that are moving entries or run.
        memory, overlap: how many of the keys are memory and overlap.
    """

    window: Window
    position: int
    tokens: np.ndarray
    memory: int
    overlap: int


@dataclass(frozen=True)
class _Cursor:
    """Where the next row begins.

    Attributes:
        token, beacon: stream positions of its first raw token and beacon.
        moving: its first moving entry, over `[stream | moving]`.
        memory, open: its first fixed entries.
    """

    token: int
    beacon: int
    moving: int
    memory: int
    open: int


def _walk(
    rows: Sequence[Row], config: BeaconConfig, at: _Cursor, moving: bool
) -> tuple[list[_KeysOfWindow], list[End], int]:
    """Go through all rows: all windows, each row's end, and the length of `[stream | moving]`."""
    windows: list[_KeysOfWindow] = []
    ends = []
    for row in rows:
        found, end, at = _walk_row(row, config, at, moving)
        windows += found
        ends.append(end)
    return windows, ends, at.moving


def _walk_row(row: Row, config: BeaconConfig, at: _Cursor, moving: bool) -> tuple[list[_KeysOfWindow], End, _Cursor]:
    """Go through one row, window by window."""
    moving_slots = row.open_slots if moving else 0
    memory = -1 - np.arange(at.memory, at.memory + row.memory)
    overlap = np.arange(at.moving, at.moving + row.overlap)
    open_fixed = -1 - np.arange(at.open, at.open + row.open_slots)
    open_moving = np.arange(at.moving + row.overlap, at.moving + row.overlap + moving_slots)
    token, beacon, position = at.token, at.beacon, row.start - row.windows[0].past
    empty = np.empty(0, np.int64)
    windows, opened, opened_slots, opened_moving = [], empty, empty, empty
    for i, window in enumerate(row.windows):
        past = open_fixed[: window.past_slots] if i == 0 else empty
        past_moving = open_moving[: window.past_slots] if i == 0 else empty
        tokens, beacons = np.arange(token, token + window.length), np.arange(beacon, beacon + window.beacons)
        token, beacon = token + window.length, beacon + window.beacons
        queries, offset = _arrange(tokens, beacons, window, config.placing)
        base = len(memory) + len(overlap)
        slots = base + np.concatenate([np.arange(len(past)), len(past) + offset])
        keys, key_slots = np.concatenate([memory, overlap, past, queries]), np.concatenate([np.arange(base), slots])
        is_beacon = _past_beacons(window)[: len(past_moving)]
        raw_tokens = np.concatenate([past_moving[~is_beacon], tokens])
        windows.append(_KeysOfWindow(queries, keys, key_slots, window, position, raw_tokens, len(memory), len(overlap)))
        if window.closes:
            all_beacons = np.concatenate([past_moving[is_beacon], beacons])
            memory, overlap = _join(memory, raw_tokens, all_beacons, window.ratio, position, config)
        else:
            opened, opened_slots = np.concatenate([past, queries]), slots
            opened_moving = np.concatenate([past_moving, queries]) if moving else empty
        position += window.size
    end = End(memory, np.arange(len(memory)), opened, opened_slots, np.concatenate([overlap, opened_moving]))
    moved = at.moving + row.overlap + moving_slots
    return windows, end, _Cursor(token, beacon, moved, at.memory + row.memory, at.open + row.open_slots)


def _join(
    memory: np.ndarray, tokens: np.ndarray, beacons: np.ndarray, ratio: Ratio, position: int, config: BeaconConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Memory and overlap after a window has closed whose first token is at `position` of the sequence."""
    if ratio == "drop":
        return memory, tokens[:0]
    if ratio == 0:
        return np.concatenate([memory, tokens]), tokens[:0]
    sink = tokens[: max(config.sink - position, 0)]
    return np.concatenate([memory, sink, beacons]), tokens[max(len(tokens) - config.overlap, 0) :]


def _past_beacons(window: Window) -> np.ndarray:
    """Return (past slots,) bool, which of a window's cached slots are beacons."""
    if window.past_slots == window.past:
        return np.zeros(window.past_slots, bool)
    step = int(window.ratio) + 1
    return np.arange(window.past_slots) % step == step - 1


def _arrange(
    tokens: np.ndarray, beacons: np.ndarray, window: Window, placement: Placement
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens that run, in the placement's order, and their slots, counted from the first raw token's."""
    both = np.concatenate([tokens, beacons])
    if len(beacons) == 0:
        return both, np.arange(len(both))
    arranged = placement.arrange(len(tokens), len(beacons), int(window.ratio), window.past)
    return both[arranged.order], arranged.slots


def _places(keys: np.ndarray, packed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first place of each stream position among the keys, -1 without one; and all other places."""
    first = np.full(packed, -1)
    from_stream = np.flatnonzero((keys >= 0) & (keys < packed))[::-1]
    first[keys[from_stream]] = from_stream  # backwards, so that the first place of several stays
    repeated = np.ones(len(keys), bool)
    repeated[first[first >= 0]] = False
    return first, np.flatnonzero(repeated)


def _selection(windows: Sequence[_KeysOfWindow], config: BeaconConfig, raw: int, packed: int) -> Selection:
    closing = [one for one in windows if one.window.beacons]
    tokens = torch.from_numpy(np.stack([one.tokens for one in closing]))
    positions = torch.tensor([one.position for one in closing])[:, None] + torch.arange(tokens.shape[1])
    counts = [one.window.beacons for one in closing]
    sizes = np.array(counts)
    return Selection(
        tokens=_without_beacons(tokens, raw, packed),
        allowed=positions >= config.sink,
        counts=torch.from_numpy(sizes),
        most=int(sizes.max()),
        window=torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
        place=torch.from_numpy(np.concatenate([np.arange(count) for count in counts])),
    )


def _without_beacons(references: Tensor, raw: int, packed: int) -> Tensor:
    """Count references to raw tokens and moving entries over `[raw tokens | moving]`, not `[stream | moving]`."""
    return torch.where(references < raw, references, references - (packed - raw))


def _visibility(placement: Placement, windows: Sequence[_KeysOfWindow], raw: int) -> Visibility:
    units, beacons = [], []
    for one in windows:
        is_beacon = np.concatenate([_past_beacons(one.window), one.queries >= raw])
        ratio = int(one.window.ratio) if is_beacon.any() else one.window.size
        unit = np.where(is_beacon, np.cumsum(is_beacon) - 1, (np.cumsum(~is_beacon) - 1) // ratio)
        units += [np.repeat([MEMORY, OVERLAP], [one.memory, one.overlap]), unit]
        beacons += [np.zeros(one.memory + one.overlap, bool), is_beacon]
    return Visibility(placement, torch.from_numpy(np.concatenate(units)), torch.from_numpy(np.concatenate(beacons)))


def _cached_layout(keys: np.ndarray, ends: Sequence[End], moving_end: int, rows: Sequence[Row]) -> CachedLayout:
    rotated = keys >= 0
    memory = np.concatenate([end.memory for end in ends])
    fixed = np.concatenate([memory, *(end.open for end in ends)])  # of the next cache
    slots = np.concatenate([*(end.memory_slots for end in ends), *(end.open_slots for end in ends)])
    added = fixed >= 0
    fixed_before = sum(row.memory + row.open_slots for row in rows)
    next_fixed = np.where(added, fixed_before + np.cumsum(added) - 1, -1 - fixed)
    unchanged = np.array_equal(memory, -1 - np.arange(sum(row.memory for row in rows)))
    starts = np.cumsum([0, *(sum(window.length for window in row.windows) for row in rows)])
    new = [np.arange(start + row.rerun, end) for start, end, row in zip(starts, starts[1:], rows, strict=False)]
    return CachedLayout(
        keys=_index(np.where(rotated, np.cumsum(rotated) - 1, rotated.sum() - 1 - keys)),
        values=_index(np.where(rotated, keys, moving_end - 1 - keys)),
        added_index=_index(fixed[added]),
        added_slot=_index(slots[added]),
        memory=None if unchanged else _index(next_fixed[: len(memory)]),
        open=_index(next_fixed[len(memory) :]),
        moving=_index(np.concatenate([end.moving for end in ends])),
        own=None,
        hidden=_index(_hidden_places(rows)),
        new=_index(np.concatenate(new)),
    )


def _hidden_places(rows: Sequence[Row]) -> np.ndarray:
    """Where each row's hidden states `[last token before the open window | open window]` are after the call."""
    stream, cached = 0, sum(window.length for row in rows for window in row.windows)
    places = []
    for row in rows:
        length, last = sum(window.length for window in row.windows), row.windows[-1]
        first = row.start - row.windows[0].past - 1  # position in the sequence of the row's first cached hidden state
        end = row.start + length
        wanted = np.arange(end - (0 if last.closes else last.size) - 1, end)
        places.append(np.where(wanted < row.start, cached + wanted - first, stream + wanted - row.start))
        stream, cached = stream + length, cached + 1 + row.windows[0].past + row.rerun
    return np.concatenate(places)


def _index(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))


def _cumulative(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
