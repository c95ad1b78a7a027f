"""Decode in static buffers, on a GPU as a CUDA graph."""

import gc
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
from beacon_lit.arch.inference.static import Buffers
from beacon_lit.arch.nn.grouped import layer_step
from beacon_lit.arch.plan.state import RowState

EAGER_STEPS = 2  # steps before a CUDA graph is captured; they warm up what it captures


class Closed(NamedTuple):
    """How the windows of some rows close: the rows' states, without ids, and what writes to the buffers."""

    rows: Sequence[int]
    before: Sequence[RowState]
    after: Sequence[RowState]
    writes: Iterable[Write]


class StaticDecoding(Decoding):
    """Decodes one token per row and step in buffers that stay in place, for open windows without beacons.

    On a GPU a step is a CUDA graph if `can_capture`, and greedy decoding begins the next one at once (`ahead`). Where
    beacons are selected, windows close in the buffers before a step. Otherwise a row whose window closes goes through a
    call from cache to cache.
    """

    def _start(self, cache: BeaconCache, room: Sequence[RowState]) -> None:
        lm, batch, like = self.lm, len(cache.rows), cache.hidden
        states = (*cache.rows, *room)
        width = max(lm.beacon.window, *(state.capacity for state in states))
        self.states = list(cache.rows)
        self.unlisted = [0] * batch  # tokens read since a row was loaded, whose ids are in `ids` and not in `states`
        self.about = replace(cache, rows=(), layers=(), hidden=like.new_empty(0, like.shape[1]))
        self.stacks = Buffers.all(lm, cache, states, width)
        self.hidden = like.new_zeros(batch, width + 2, like.shape[1])  # the last column is scratch
        self.ids = torch.zeros(batch, width + 1, dtype=torch.int64, device=like.device)
        self.new_ids = torch.zeros(batch, dtype=torch.int64, device=like.device)
        # the slot in each stack, and the place in the window
        self.places = torch.zeros(len(self.stacks) + 1, batch, dtype=torch.int64, device=like.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.captures = like.is_cuda and can_capture(lm)
        self.warm = 0
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
            return self._begin(rows, logits)

    def _step(self, ids: Tensor, rows: Sequence[int]) -> Tensor:
        """Read one token in each of some rows: (B, 1) ids -> (B, 1, V) logits."""
        closing = self._closing(rows)
        if closing and self.about.selects:
            self._close(closing)
            closing = []
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

    def _closing(self, rows: Sequence[int]) -> list[int]:
        """Return those of some rows whose window closes with the next token."""
        return [row for row in rows if self._open(row) == self.states[row].capacity]

    def _close(self, rows: Sequence[int]) -> None:
        """Close the windows of some rows in the buffers, as the call that reads each row's next token would."""
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
        """Plan how the windows of some rows close."""
        before = [self._counts(row) for row in rows]
        call = self._plan(rows, replace(self.about, rows=tuple(before)))
        read = call.advance([[0]] * len(rows), self.lm.beacon)  # whatever the next token is
        after = [replace(state, seen_tokens=state.seen_tokens - 1, open_ids=(), window_slots=0) for state in read]
        writes = chain.from_iterable(close_windows(stack, rows, before, after) for stack in self.stacks)
        return Closed(rows, before, after, writes)

    def _make_room(self, state: RowState) -> None:
        for stack in self.stacks:
            if stack.needed(state) >= stack.slots:
                stack.grow(stack.needed(state))
                self.graph = None

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
            used = (stack.used(self.states[row]) for stack in self.stacks if stack.kind.reach is None)
            if max(used) + self.unlisted[row] >= self.lm.positions:
                return row
        return None

    def _begin(self, rows: Sequence[int], logits: Tensor) -> Tensor:
        """Begin the next step of some rows with the likeliest tokens after (B, 1, V) logits, and return the logits.

        If windows close first, what they leave is computed, but for rows that take further memory. Nothing is written,
        since no further token may come.
        """
        ready = self.graph is not None or not self.hidden.is_cuda
        if self.ahead is None or self.ahead.wrong or not ready or self._full(rows) is not None:
            return logits
        if closing := self._closing(rows):
            if self.about.selects:
                # The step that closes them, if there is one, says what is wrong.
                with suppress(ValueError), self.ahead.beside():
                    closed = self._closed(closing)
                    first = list(islice(closed.writes, len(self.stacks)))
                    self.closed = closed._replace(writes=chain(first, closed.writes))
            return logits
        logits = logits.clone()  # the step writes its own in the same place
        ids = logits[:, 0].argmax(-1)
        self._place(ids, rows)
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
        scratch = [*(stack.slots - 1 for stack in self.stacks), self.ids.shape[1] - 1]
        columns = [scratch] * len(ids)
        for row in rows:
            used = (stack.used(self.states[row]) + self.unlisted[row] for stack in self.stacks)
            columns[row] = [*used, self._open(row)]
        places = torch.tensor(columns).T.contiguous()
        self.places.copy_(places.pin_memory() if ids.is_cuda else places, non_blocking=True)
        idle = self.places[-1] == self.ids.shape[1] - 1
        self.new_ids.copy_(ids.masked_fill(idle, 0))  # the padding id may be outside the vocabulary

    def _count(self, rows: Sequence[int]) -> None:
        """Count one more token in each of some rows."""
        for row in rows:
            self.unlisted[row] += 1

    def _launch(self) -> None:
        """Run a step; `logits` will hold its result."""
        if not self.captures or self.warm < EAGER_STEPS:
            self.warm += 1
            self.logits = self._run()
            return
        if self.graph is None:
            self.graph = self._capture()
        self.graph.replay()

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Capture a step. `torch.cuda.graph` would free cached memory, which the next closing window needs."""
        graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), without_garbage_collection():  # which may wait for a step of another decoding
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self.logits = self._run()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(side)
        return graph

    def _run(self) -> Tensor:
        """Compute (B, V) logits after `new_ids` at `places`: device work only, on tensors at fixed addresses."""
        lm, places = self.lm, self.places[-1]
        embedded = lm.scale_embeddings(lm.model.embed_tokens(self.new_ids))
        stacks = [
            (stack.steps(embedded, own, places), stack.members)
            for stack, own in zip(self.stacks, self.places[:-1], strict=True)
        ]
        layers = range(len(lm.model.layers))
        steps = [layer_step((some[layer], own[layer]) for some, own in stacks if layer in some) for layer in layers]
        hidden = lm.run_layers(embedded, steps, lm.decode_layer)
        rows = torch.arange(len(places), device=places.device)
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
            window_slots=state.window_slots + count,
        )


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Collect no garbage within this context."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
    """Continue from `cache`, see `Decoding`: in static buffers if open windows hold no beacons."""
    engine = Decoding if cache.unfinished == "beacons" else StaticDecoding
    return engine(lm, cache, ratios, totals, finished, room, greedy and cache.hidden.is_cuda)


def _on(like: Tensor, rows: Sequence[int]) -> Tensor:
    return torch.tensor(list(rows), device=like.device)
