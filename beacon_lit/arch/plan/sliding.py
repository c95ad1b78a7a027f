"""Lay out a call in layers that see a sliding window of raw tokens (`kinds.Sliding`).

The raw tokens that a row runs are a sequence, whose keys are those before it that its first query sees, and its own;
slots are positions in the text. Beacons are the queries of a second sequence: each stands at the last raw token of its
unit, between raw tokens whose outputs nobody reads. So both are plain variable-length attention of limited reach. Long
sequences are cut, since a kernel with masks computes all pairs of a sequence.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from beacon_lit.arch.plan.references import Attended, End
from beacon_lit.arch.plan.windows import Row

LONGEST = 4096  # queries of a sequence


def walk_sliding(rows: Sequence[Row], reach: int, raw: int, runs: bool) -> tuple[list[Attended], list[End]]:
    """Go through all rows: all sequences of queries and keys, and each row's end.

    Args:
        rows: what the call does to each row, see `Sliding.rows`.
        reach: how many raw tokens a query sees, its own included.
        raw: raw tokens of the call, R.
        runs: whether beacons run; then they follow the raw tokens in the stream.
    """
    sequences: list[Attended] = []
    ends = []
    token, beacon, memory, opened = 0, raw, 0, sum(row.memory for row in rows)
    for row in rows:
        count, past = sum(window.length for window in row.windows), row.windows[0].past
        cached = np.concatenate([np.arange(memory, memory + row.memory), np.arange(opened, opened + past)])
        refs = np.concatenate([-1 - cached, np.arange(token, token + count)])
        first = row.start - len(cached)  # position in the text of the first reference
        sequences += _attended(refs, first, refs[len(cached) :], row.start, reach)
        if runs and any(window.beacons for window in row.windows):
            places = np.concatenate(list(_beacon_positions(row)))
            queries = refs[places[0] - first : places[-1] - first + 1].copy()
            queries[places - places[0]] = np.arange(beacon, beacon + len(places))
            sequences += _attended(refs, first, queries, places[0], reach)
            beacon += len(places)
        ends.append(_end(row, refs, first, reach))
        token, memory, opened = token + count, memory + row.memory, opened + row.open_slots
    return sequences, ends


def _attended(refs: np.ndarray, first: int, queries: np.ndarray, start: int, reach: int) -> Iterator[Attended]:
    """Yield the sequences of queries from position `start` on, among `refs` to the raw tokens from `first` on."""
    for skipped in range(0, len(queries), LONGEST):
        own = queries[skipped : skipped + LONGEST]
        at = start + skipped - first  # among the references
        span = slice(max(at - reach + 1, 0), at + len(own))
        yield Attended(own, refs[span], first + np.arange(span.start, span.stop))


def _beacon_positions(row: Row) -> Iterator[np.ndarray]:
    """Yield for each window the position of the last raw token of each unit that has a beacon in this call."""
    position = row.start - row.windows[0].past
    for window in row.windows:
        if window.beacons:
            ratio = int(window.ratio)
            yield position + (window.past // ratio + 1 + np.arange(window.beacons)) * ratio - 1
        position += window.size


def _end(row: Row, refs: np.ndarray, first: int, reach: int) -> End:
    last = row.windows[-1]
    border = len(refs) - (0 if last.closes else last.size)  # the open window begins here
    kept = slice(max(border - reach + 1, 0), border)
    slots = first + np.arange(len(refs))
    return End(refs[kept], slots[kept], refs[border:], slots[border:], refs[:0])
