"""Decode in static buffers, on a GPU as a CUDA graph."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from operator import itemgetter

import torch
from torch import Tensor

from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.checkpoint.quantized import synchronises
from beacon_lit.arch.checkpoint.sharded import is_spread
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.inference.closing import close_windows
from beacon_lit.arch.inference.compress import CHUNK_WINDOWS
from beacon_lit.arch.inference.decode import Decoding, Finished, PerRow
from beacon_lit.arch.inference.static import Buffers
from beacon_lit.arch.nn.grouped import layer_step
from beacon_lit.arch.plan.state import RowState

EAGER_STEPS = 2  # steps before a CUDA graph is captured; they warm up what it captures


class StaticDecoding(Decoding):
    """Decodes one token per row and step in buffers that stay in place, for open windows without beacons.

    On a GPU a step is a CUDA graph if `can_capture`. Where beacons are selected, windows close in the buffers before a
    step. Otherwise a row whose window closes goes through a call from cache to cache.
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
        for row in range(batch):
            self._load(row, cache, row)

    def step(self, ids: Tensor) -> Tensor:
        """See `Decoding.step`."""
        rows = self._running(len(ids))
        if not rows:
            return self._no_logits(ids)
        closing = [row for row in rows if self._open(row) == self.states[row].capacity]
        if closing and self.about.selects:
            self._close(closing)
            closing = []
        going_on = [row for row in rows if row not in closing]
        self._check_positions(going_on)
        logits = self._advance(ids, going_on)[:, None] if going_on else None
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
        return self._value(range(len(self.states)))

    def cache_of(self, row: int) -> BeaconCache:
        """See `Decoding.cache_of`."""
        return self._value([row])

    def replace(self, rows: Sequence[int], cache: BeaconCache, places: Sequence[int]) -> None:
        """See `Decoding.replace`."""
        for row, place in zip(rows, places, strict=True):
            self._load(row, cache, place)

    def reorder(self, rows: Tensor) -> None:
        """See `Decoding.reorder`."""
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

    def _close(self, rows: Sequence[int]) -> None:
        """Close the windows of some rows in the buffers, as the call that reads each row's next token would."""
        before = [self._state(row) for row in rows]
        call = self._plan(rows, replace(self.about, rows=tuple(before)))
        read = call.advance([[0]] * len(rows), self.lm.beacon)  # whatever the next token is
        after = [replace(state, seen_tokens=state.seen_tokens - 1, open_ids=(), window_slots=0) for state in read]
        for row, was, now in zip(rows, before, after, strict=True):
            self._make_room(now)
            self.hidden[row, 0] = self.hidden[row, len(was.open_ids)]
            self.states[row], self.unlisted[row] = now, 0
        for stack in self.stacks:
            close_windows(stack, rows, before, after)
        self._use_ratios(rows, before, after)

    def _make_room(self, state: RowState) -> None:
        for stack in self.stacks:
            if stack.needed(state) >= stack.slots:
                stack.grow(stack.needed(state))
                self.graph = None

    def _check_positions(self, rows: Sequence[int]) -> None:
        for row in rows:
            used = (stack.used(self.states[row]) for stack in self.stacks if stack.kind.reach is None)
            if max(used) + self.unlisted[row] >= self.lm.positions:
                raise ValueError(
                    f"row {row} needs more than the backbone's {self.lm.positions} position slots "
                    f"(max_position_embeddings) after {self.states[row].seen_tokens + self.unlisted[row]} tokens; "
                    f"allowed: fewer tokens, or larger ratios"
                )

    def _advance(self, ids: Tensor, rows: Sequence[int]) -> Tensor:
        """Read one token per row: (B, 1) ids -> (B, V) logits. Rows that are not in `rows` write to scratch."""
        scratch = [*(stack.slots - 1 for stack in self.stacks), self.ids.shape[1] - 1]
        columns = [scratch] * len(ids)
        for row in rows:
            used = (stack.used(self.states[row]) + self.unlisted[row] for stack in self.stacks)
            columns[row] = [*used, self._open(row)]
            self.unlisted[row] += 1
        places = torch.tensor(columns).T.contiguous()
        self.places.copy_(places.pin_memory() if ids.is_cuda else places, non_blocking=True)
        idle = self.places[-1] == self.ids.shape[1] - 1
        self.new_ids.copy_(ids[:, 0].masked_fill(idle, 0))  # the padding id may be outside the vocabulary
        if not self.captures or self.warm < EAGER_STEPS:
            self.warm += 1
            return self._run()
        if self.graph is None:
            self.graph = self._capture()
        self.graph.replay()
        return self.logits

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Capture a step. `torch.cuda.graph` would free cached memory, which the next closing window needs."""
        graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
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
        state, count = self.states[row], self.unlisted[row]
        listed = len(state.open_ids)
        ids = tuple(self.ids[row, listed : listed + count].tolist())
        return replace(
            state,
            seen_tokens=state.seen_tokens + count,
            open_ids=state.open_ids + ids,
            window_slots=state.window_slots + count,
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
) -> Decoding:
    """Continue from `cache`, see `Decoding`: in static buffers if open windows hold no beacons."""
    engine = Decoding if cache.unfinished == "beacons" else StaticDecoding
    return engine(lm, cache, ratios, totals, finished, room)


def _on(like: Tensor, rows: Sequence[int]) -> Tensor:
    return torch.tensor(list(rows), device=like.device)
