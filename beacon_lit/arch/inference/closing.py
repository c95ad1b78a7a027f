"""Close windows in static buffers: in all layers at once, without a pass through them.

This is possible where the beacons of a full window have run, or are selected. Raw tokens do not see beacons that are
selected in their own window, so nothing that a row has read changes when its window closes.

Shape legend: C rows, w raw tokens of a window, K KV heads of a layer, H head dim.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from beacon_lit.arch.inference.moving import read_entries, read_heads, write_entries
from beacon_lit.arch.inference.static import Buffers
from beacon_lit.arch.nn.selection import best
from beacon_lit.arch.placements.placement import interleaved
from beacon_lit.arch.plan.rows import move
from beacon_lit.arch.plan.state import RowState

Write: TypeAlias = Callable[[], None]

AT_ONCE = 2**27  # most numbers of the keys of windows that close at once, which bounds the memory that this takes


class Closing(NamedTuple):
    """How a window closes.

    Attributes:
        tokens: raw tokens of the window.
        ratio: raw tokens for each beacon, where beacons have run.
        raw: first tokens of the window that memory keeps as they are: sink tokens, or a window kept raw.
        beacons: beacons of the window, which have run, or tokens that each head selects.
        overlap: last tokens of the window that the next one sees.
    """

    tokens: int
    ratio: int
    raw: int
    beacons: int
    overlap: int


def close_windows(
    stack: Buffers, rows: Sequence[int], before: Sequence[RowState], after: Sequence[RowState]
) -> Iterator[Write]:
    """Compute what the full windows of some rows leave when they close, a few rows at a time.

    Args:
        stack: the buffers.
        rows: the rows.
        before: the state of each row with the full window, whatever its ids.
        after: the state of each row with an empty window behind that one.

    Yields:
        functions that write it to the buffers; until then the buffers are unchanged.
    """
    if stack.kind.reach is not None:
        yield partial(_slide, stack, rows, before, after)
        return
    alike: dict[Closing, list[tuple[int, int, int]]] = {}
    for row, was, now in zip(rows, before, after, strict=True):
        memory, overlap, slots = stack.kind.entries(was)
        tokens = len(was.open_ids)
        next_memory, next_overlap, _ = stack.kind.entries(now)
        raw = now.sink_slots + now.kept_slots - was.sink_slots - was.kept_slots
        ratio = int(was.ratio or 1) if slots > tokens else 1
        closing = Closing(tokens, ratio, raw, next_memory - memory - raw, next_overlap)
        alike.setdefault(closing, []).append((row, memory, memory + overlap))
    for closing, found in alike.items():
        count = max(AT_ONCE // (closing.tokens * stack.keys[:, 0, :, 0].numel()), 1)
        for start in range(0, len(found), count):
            yield _close(stack, closing, move(torch.tensor(found[start : start + count]), stack.keys.device))


def _close(stack: Buffers, closing: Closing, rows: Tensor) -> Write:
    """Close windows in the same way; `rows` (C, 3): the row, and the places of its next memory slot and its window."""
    row, memory, first = rows.T[..., None]
    moving, inserted = stack.moving, 0 if stack.moving.selects else closing.beacons
    found = interleaved(closing.tokens, inserted, closing.ratio, 0)
    window, beacons = (move(torch.from_numpy(places), rows.device) for places in found)
    tail = window[closing.tokens - closing.overlap :]
    kept = torch.cat([window[: closing.raw], beacons, tail])  # what memory and the next window see as it is
    kept_keys, kept_values = (
        read_entries(moving.buffers[0], row, moving.start + kept),
        read_entries(stack.values, row, first + kept),
    )
    if moving.selects:
        chosen = moving.start + _select(read_entries(moving.buffers[0], row, moving.start + window), closing)
        kept_keys, kept_values = (
            torch.cat([some[:, : closing.raw], read_heads(own, row, chosen), some[:, closing.raw :]], 1)
            for some, own in zip((kept_keys, kept_values), moving.buffers[1:], strict=True)
        )
    slots = memory + torch.arange(kept_keys.shape[1], device=rows.device)
    kept_keys = stack.rotated(kept_keys.flatten(0, 1), slots.flatten()).view_as(kept_keys)
    overlaps = [read_entries(buffer, row, moving.start + tail) for buffer in moving.buffers]
    places = torch.arange(closing.overlap, device=rows.device)

    def write() -> None:
        write_entries(stack.keys, row, slots, kept_keys)
        write_entries(stack.values, row, slots, kept_values)
        for buffer, overlap in zip(moving.buffers, overlaps, strict=True):
            write_entries(buffer, row, moving.start - closing.overlap + places, overlap)

    return write


def _select(keys: Tensor, closing: Closing) -> Tensor:
    """Select the tokens of each head: keys before RoPE (C, w, heads, H) -> (C, beacons, heads) int64."""
    if closing.beacons == 0:
        return torch.empty(len(keys), 0, keys.shape[2], dtype=torch.int64, device=keys.device)
    allowed = torch.arange(closing.tokens, device=keys.device).expand(len(keys), -1) >= closing.raw
    counts = torch.full((len(keys),), closing.beacons, device=keys.device)
    return best(keys, allowed, counts, closing.beacons).transpose(1, 2)


def _slide(stack: Buffers, rows: Sequence[int], before: Sequence[RowState], after: Sequence[RowState]) -> None:
    """Move what the next token sees in a sliding window to each row's first places."""
    for row, was, now in zip(rows, before, after, strict=True):
        end, kept = stack.used(was), stack.used(now)
        for buffer in (stack.keys, stack.values):
            buffer[:, row, :, :kept] = buffer[:, row, :, end - kept : end].clone()
        stack.first[row] = stack.kind.first_slot(now)
