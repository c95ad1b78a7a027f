"""Decode in static buffers, on a GPU as a CUDA graph."""

import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.checkpoint.quantized import synchronises
from beacon_lit.arch.checkpoint.sharded import is_spread
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.inference.ahead import Ahead
from beacon_lit.arch.inference.closing import Write, close_windows
from beacon_lit.arch.inference.compress import CHUNK_WINDOWS
from beacon_lit.arch.inference.decode import Decoding, Finished, PerRow
from beacon_lit.arch.inference.graphs import Graphs
from beacon_lit.arch.inference.static import Buffers, InWindow
from beacon_lit.arch.nn.grouped import layer_step
from beacon_lit.arch.plan.state import RowState
from beacon_lit.arch.plan.windows import beacons_of


class Closed(NamedTuple):
    """How the windows of some rows close: the rows' states, without ids, and what writes to the buffers."""

    rows: Sequence[int]
    before: Sequence[RowState]
    after: Sequence[RowState]
    writes: Iterable[Write]


class StaticDecoding(Decoding):
    """Decodes one token per row and step in buffers that stay in place.

    On a GPU a step is a CUDA graph if `can_capture`, and greedy decoding begins the next one at once (`ahead`). Where
    open windows hold beacons, there is a second graph for steps in which a unit is complete: each row's beacon runs
    behind its raw token. Windows whose beacons have run or are selected close in the buffers. Otherwise a row whose
    window closes goes through a call from cache to cache.
    """

    def _start(self, cache: BeaconCache, room: Sequence[RowState]) -> None:
        lm, batch, like = self.lm, len(cache.rows), cache.hidden
        states = (*cache.rows, *room)
        width = max(lm.beacon.window, *(state.capacity for state in states))
        self.states = list(cache.rows)
        self.unlisted = [0] * batch  # tokens read since a row was loaded, whose ids are in `ids` and not in `states`
        self.about = replace(cache, rows=(), layers=(), hidden=like.new_empty(0, like.shape[1]))
        # Whether windows close with the token that fills them, not with the next one; and whether in the buffers.
        self.at_once = cache.unfinished == "beacons"
        self.in_place = cache.selects or cache.has_open_beacons
        self.width = 2 * width if cache.has_open_beacons else width  # most slots of an open window
        self.stacks = Buffers.all(lm, cache, states, self.width)
        self.hidden = like.new_zeros(batch, width + 2, like.shape[1])  # the last column is scratch
        self.ids = torch.zeros(batch, width + 1, dtype=torch.int64, device=like.device)
        self.new_ids = torch.zeros(batch, dtype=torch.int64, device=like.device)
        # For raw tokens and beacons: the place in each stack, `InWindow`, and the place among the window's raw tokens.
        shape = len(self.stacks) + len(InWindow._fields) + 1, batch * (2 if cache.has_open_beacons else 1)
        self.places = torch.zeros(shape, dtype=torch.int64, device=like.device)
        self.tokens = batch  # of a step: with beacons twice as many
        self.graphs = Graphs(like.is_cuda and can_capture(lm))
        self.ahead = Ahead(like.device) if self.greedy else None
        self.closed: Closed | None = None
        if self.ahead is not None:
            weakref.finalize(self, self.ahead.synchronize)  # before the memory that a step uses is free
        for row in range(batch):
            self._load(row, cache, row)

    def step(self, ids: Tensor) -> Tensor:
        """See `Decoding.step`."""
        rows = self._running(len(ids))
        if not rows:
            return self._no_logits(ids)
        with torch.cuda.device_of(self.hidden):  # whose streams graphs and Triton use
            if self.ahead is not None and self.ahead.take(ids[:, 0], rows):
                self._count(rows)
                logits = self.logits[:, None]
            else:
                logits = self._step(ids, rows)
            if self.at_once and self.in_place and (full := self._closing(rows)):
                self._close(full)
            return self._begin(rows, logits)

    def _step(self, ids: Tensor, rows: Sequence[int]) -> Tensor:
        """Read one token in each of some rows: (B, 1) ids -> (B, 1, V) logits."""
        closing = self._closing(rows)
        if closing and self.in_place:
            self._close(closing)
            closing = []
        self._choose_ratios(rows)
        going_on = [row for row in rows if row not in closing]
        self._check_positions(going_on)
        logits = self._advance(ids[:, 0], going_on)[:, None] if going_on else None
        for start in range(0, len(closing), CHUNK_WINDOWS):
            group = closing[start : start + CHUNK_WINDOWS]
            hidden, after = self._read(ids, group, self._value(group))
            for place, row in enumerate(group):
                self._load(row, after, place, self.states[row])
            found = self._logits(ids, group, hidden)
            logits = found if logits is None else logits.index_copy(0, _on(ids, group), found[_on(ids, group)])
        assert logits is not None
        return logits

    def cache(self) -> BeaconCache:
        """See `Decoding.cache`."""
        self._end()
        return self._value(range(len(self.states)))

    def cache_of(self, row: int) -> BeaconCache:
        """See `Decoding.cache_of`."""
        self._end()
        return self._value([row])

    def replace(self, rows: Sequence[int], cache: BeaconCache, places: Sequence[int]) -> None:
        """See `Decoding.replace`."""
        self._end()
        for row, place in zip(rows, places, strict=True):
            self._load(row, cache, place)

    def reorder(self, rows: Tensor) -> None:
        """See `Decoding.reorder`."""
        self._end()
        for stack in self.stacks:
            stack.reorder(rows)
        for buffer in (self.hidden, self.ids):
            buffer.copy_(buffer[rows])
        order = rows.tolist()
        self.states = [self.states[row] for row in order]
        self.unlisted = [self.unlisted[row] for row in order]
        self._reorder_ratios(rows)

    def _open(self, row: int) -> int:
        """Return the number of tokens in the row's open window."""
        return len(self.states[row].open_ids) + self.unlisted[row]

    def _slots(self, row: int, more: int = 0) -> int:
        """Return the number of slots that the row's open window has with `more` further tokens."""
        tokens = self._open(row) + more
        return tokens + (beacons_of(tokens, self.states[row].ratio) if self.about.has_open_beacons else 0)

    def _closing(self, rows: Sequence[int]) -> list[int]:
        """Return those of some rows whose window is full, or must go through a call to become full."""
        early = self.at_once and not self.in_place
        return [row for row in rows if self._open(row) + early == self.states[row].capacity]

    def _choose_ratios(self, rows: Sequence[int]) -> None:
        """Choose the ratios of windows that begin with the next token, where windows have theirs from the start."""
        new = [row for row in rows if self._open(row) == 0] if self.at_once else []
        if not new:
            return
        planned = rows if self.lm.training else new  # rows draw by their number
        call = self._plan(planned, replace(self.about, rows=tuple(map(self._counts, planned))))
        for row, state, ratio in zip(planned, call.states, call.open_ratios, strict=True):
            if row in new and ratio is not None:
                self.states[row] = state if state.ratio is not None else replace(state, ratios=((0, ratio),))
                self._make_room(self.states[row])

    def _close(self, rows: Sequence[int]) -> None:
        """Close the full windows of some rows in the buffers."""
        closed = self.closed if self.closed is not None and self.closed.rows == rows else self._closed(rows)
        self._end()
        for row, was, now in zip(rows, closed.before, closed.after, strict=True):
            self._make_room(now)
            self.hidden[row, 0] = self.hidden[row, len(was.open_ids)]
            self.states[row], self.unlisted[row] = now, 0
        for write in closed.writes:
            write()
        self._use_ratios(rows, closed.before, closed.after)

    def _closed(self, rows: Sequence[int]) -> "Closed":
        """Plan how the windows of some rows close, as the call would that closes them."""
        before, new = [self._counts(row) for row in rows], 0 if self.at_once else 1
        call = self._plan(rows, replace(self.about, rows=tuple(before)), new)
        read = call.advance([[0] * new] * len(rows), self.lm.beacon)  # whatever the next token is
        after = [replace(state, seen_tokens=state.seen_tokens - new, open_ids=(), window_slots=0) for state in read]
        writes = chain.from_iterable(close_windows(stack, rows, before, after) for stack in self.stacks)
        return Closed(rows, before, after, writes)

    def _make_room(self, state: RowState) -> None:
        for stack in self.stacks:
            if stack.needed(state) >= stack.slots:
                stack.grow(stack.needed(state))
                self.graphs.clear()

    def _check_positions(self, rows: Sequence[int]) -> None:
        row = self._full(rows)
        if row is not None:
            raise ValueError(
                f"row {row} needs more than the backbone's {self.lm.positions} position slots "
                f"(max_position_embeddings) after {self.states[row].seen_tokens + self.unlisted[row]} tokens; "
                f"allowed: fewer tokens, or larger ratios"
            )

    def _full(self, rows: Sequence[int]) -> int | None:
        """Return the first of some rows that has no position left; None: all have one."""
        for row in rows:
            before = max(stack.before(self.states[row]) for stack in self.stacks if stack.kind.reach is None)
            if before + self._slots(row, 1) > self.lm.positions:
                return row
        return None

    def _begin(self, rows: Sequence[int], logits: Tensor) -> Tensor:
        """Begin the next step of some rows with the likeliest tokens after (B, 1, V) logits, and return the logits.

        None begins before a graph exists, nor if a window's ratio is to be chosen first. If windows close first, what
        they leave is computed, but for rows that take further memory. Nothing is written, since no further token may
        come.
        """
        if self.ahead is None or self.ahead.wrong or self._full(rows) is not None:
            return logits
        if closing := self._closing(rows):
            if self.in_place and (len(self.graphs) or not self.hidden.is_cuda):
                # The step that closes them, if there is one, says what is wrong.
                with suppress(ValueError), self.ahead.beside():
                    closed = self._closed(closing)
                    first = list(islice(closed.writes, len(self.stacks)))
                    self.closed = closed._replace(writes=chain(first, closed.writes))
            return logits
        if self.at_once and any(self._open(row) == 0 for row in rows):
            return logits
        ids = logits[:, 0].argmax(-1)
        self._place(ids, rows)
        if self.hidden.is_cuda and self.tokens not in self.graphs:
            return logits
        logits = logits.clone()  # the step writes its own in the same place
        with self.ahead.beside(ids):
            self._launch()
        return logits

    def _end(self) -> None:
        """Forget what has begun: what a step wrote will be overwritten."""
        self.closed = None
        if self.ahead is not None:
            self.ahead.end()

    def _advance(self, ids: Tensor, rows: Sequence[int]) -> Tensor:
        """Read one token per row: (B,) ids -> (B, V) logits. Rows that are not in `rows` write to scratch."""
        self._place(ids, rows)
        self._launch()
        self._count(rows)
        return self.logits

    def _place(self, ids: Tensor, rows: Sequence[int]) -> None:
        """Set the tokens of a step, and where it writes."""
        batch, last = len(ids), self.ids.shape[1] - 1
        scratch = [*(stack.slots - 1 for stack in self.stacks), self.width, 0, 1, last]
        columns = [scratch] * self.places.shape[1]
        self.tokens = batch
        for row in rows:
            state, opened, slots = self.states[row], self._open(row), self._slots(row)
            ratio = state.ratio if isinstance(state.ratio, int) and state.ratio else self.width
            about, places = (state.overlap_slots, ratio), [stack.place(state, opened, slots) for stack in self.stacks]
            columns[row] = [*places, slots, *about, opened]
            if self._slots(row, 1) > slots + 1:
                places = [stack.place(state, opened, slots + 1) for stack in self.stacks]
                columns[batch + row] = [*places, slots + 1, *about, last]
                self.tokens = 2 * batch
        table = torch.tensor(columns).T.contiguous()
        self.places.copy_(table.pin_memory() if ids.is_cuda else table, non_blocking=True)
        idle = self.places[-1, :batch] == last
        self.new_ids.copy_(ids.masked_fill(idle, 0))  # the padding id may be outside the vocabulary

    def _count(self, rows: Sequence[int]) -> None:
        """Count one more token in each of some rows."""
        for row in rows:
            self.unlisted[row] += 1

    def _launch(self) -> None:
        """Run a step; `logits` will hold its result."""
        self.logits = self.graphs.run(self.tokens, self._run)

    def _run(self) -> Tensor:
        """Compute (B, V) logits after `new_ids` at `places`: device work only, on tensors at fixed addresses."""
        lm, batch = self.lm, len(self.new_ids)
        embedded = lm.embed(self.new_ids, self.tokens - batch)
        *own, slot, overlap, ratio, places = self.places[:, : self.tokens]
        window, places = InWindow(slot, overlap, ratio), places[:batch]
        stacks = [
            (stack.steps(embedded, at, window), stack.members) for stack, at in zip(self.stacks, own, strict=True)
        ]
        layers = range(len(lm.model.layers))
        steps = [layer_step((some[layer], own[layer]) for some, own in stacks if layer in some) for layer in layers]
        hidden = lm.run_layers(embedded, steps, lm.decode_layer)[:batch]
        rows = torch.arange(batch, device=places.device)
        self.hidden[rows, places + 1] = hidden
        self.ids[rows, places] = self.new_ids
        return lm.logits(hidden)

    def _load(self, row: int, cache: BeaconCache, place: int, known: RowState | None = None) -> None:
        """Load row `place` of a cache into `row`, where the memory of the state `known` is already."""
        state = cache.rows[place]
        self._make_room(state)
        for stack in self.stacks:
            stack.load(row, cache, place, 0 if known is None else stack.known(known, state))
        start, count = sum(1 + len(other.open_ids) for other in cache.rows[:place]), 1 + len(state.open_ids)
        self.hidden[row, :count] = cache.hidden[start : start + count]
        self.states[row], self.unlisted[row] = state, 0

    def _value(self, rows: Sequence[int]) -> BeaconCache:
        """Return a cache of some rows."""
        states = tuple(self._state(row) for row in rows)
        hidden = [self.hidden[row, : 1 + len(state.open_ids)] for row, state in zip(rows, states, strict=True)]
        stacks = [zip(stack.parts, stack.layers(rows, states), strict=True) for stack in self.stacks]
        layers = tuple(layer for _, layer in sorted(chain(*stacks), key=itemgetter(0)))
        return replace(self.about, rows=states, layers=layers, hidden=torch.cat(hidden))

    def _state(self, row: int) -> RowState:
        counts, listed = self._counts(row), len(self.states[row].open_ids)
        ids = self.ids[row, listed : len(counts.open_ids)].tolist()
        return replace(counts, open_ids=(*counts.open_ids[:listed], *ids))

    def _counts(self, row: int) -> RowState:
        """Return the state of a row, with zeros for ids that are not listed, which the host does not wait for."""
        state, count = self.states[row], self.unlisted[row]
        return replace(
            state,
            seen_tokens=state.seen_tokens + count,
            open_ids=state.open_ids + (0,) * count,
            window_slots=self._slots(row),
        )


def can_capture(lm: BeaconModel) -> bool:
    """Whether a CUDA graph can capture a decoding step of the model.

    The choice of experts and some quantised products wait for the device, and weights that are spread over ranks are at
    another address in every step.
    """
    return not (synchronises(lm) or is_spread(lm) or lm.has_experts)


def start_decoding(
    lm: BeaconModel,
    cache: BeaconCache,
    ratios: PerRow,
    totals: Sequence[int] | None,
    finished: Finished | None,
    room: Sequence[RowState] = (),
    greedy: bool = False,
) -> Decoding:
    """Continue from `cache` in static buffers, see `Decoding`."""
    return StaticDecoding(lm, cache, ratios, totals, finished, room, greedy and cache.hidden.is_cuda)


def _on(like: Tensor, rows: Sequence[int]) -> Tensor:
    return torch.tensor(list(rows), device=like.device)
