"""Cut the tokens of a call into windows: which tokens run, which windows close, how many beacons they get."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from beacon_lit.arch.config import BeaconConfig
from beacon_lit.arch.plan.ratios import longest
from beacon_lit.arch.plan.state import RowState
from beacon_lit.arch.ratios import Ratio


@dataclass(frozen=True)
class Window:
    """One window that a call touches.

    Attributes:
        length: raw tokens that run in this call.
        ratio: α, 0 (kept raw) or "drop".
        beacons: beacons that run in this call.
        past: raw tokens of the window that stand in the cache and do not run in this call.
        past_slots: slots of these tokens and of the beacons among them.
        closes: whether the window closes in this call, so that its beacons join memory.
    """

    length: int
    ratio: Ratio
    beacons: int
    past: int = 0
    past_slots: int = 0
    closes: bool = False

    @property
    def size(self) -> int:
        """Raw tokens of the window, cached ones included."""
        return self.past + self.length

    @property
    def slots(self) -> int:
        """Slots of the window, cached ones and beacons included."""
        return self.past_slots + self.length + self.beacons


@dataclass(frozen=True)
class Row:
    """What a call does to one row.

    Attributes:
        windows: the windows that the call touches.
        start: position in the sequence of the first token that runs.
        rerun: tokens of the open window that earlier calls have read and that run again, as it closes with beacons that
            run.
        memory, overlap, open_slots: slots of each kind in the cache.
        group_memory: memory slots of each group of heads in the cache; () for a row that reads without a state.
    """

    windows: tuple[Window, ...]
    start: int = 0
    rerun: int = 0
    memory: int = 0
    overlap: int = 0
    open_slots: int = 0
    group_memory: tuple[int, ...] = ()

    @property
    def new(self) -> int:
        """Tokens that the call reads: all that run, but for rerun ones."""
        return sum(window.length for window in self.windows) - self.rerun


def sizes(state: RowState, new: int, window: int) -> list[int]:
    """Raw tokens of each window that `new` more tokens touch, cached tokens included."""
    total = len(state.open_ids) + new
    first = min(total, state.capacity)
    rest = total - first
    return [first, *[window] * (rest // window), *([rest % window] if rest % window else [])]


def beacons_of(tokens: int, ratio: Ratio | None) -> int:
    """Beacons of the units that the first tokens of a window complete."""
    return tokens // ratio if isinstance(ratio, int) and ratio > 0 else 0


def plan(
    lengths: Sequence[int],
    ratios: Sequence[Sequence[Ratio]],
    config: BeaconConfig,
    unfinished: str,
    states: Sequence[RowState] | None = None,
    more: Sequence[bool] | None = None,
) -> tuple[Row, ...]:
    """Plan a call.

    Args:
        lengths: new raw tokens of each row.
        ratios: for each row, the ratio of each window that the call touches.
        config: the beacon settings.
        unfinished: "raw": a window stays open and without beacons, full or not, until a token beyond it arrives, and
            then runs again if its beacons run; "beacons": a window gets beacons as tokens come, and closes when it is
            full.
        states: state of each row; default: all rows are at their start.
        more: for each row, whether more tokens will follow, so that a full window closes; default: no.
    """
    if states is None:
        states = [RowState(config.window)] * len(lengths)
    more = [False] * len(lengths) if more is None else more
    planned = zip(states, lengths, ratios, more, strict=True)
    return tuple(_plan_row(*row, config, unfinished) for row in planned)


def _plan_row(
    state: RowState, new: int, ratios: Sequence[Ratio], more: bool, config: BeaconConfig, unfinished: str
) -> Row:
    cut = sizes(state, new, config.window)
    last = len(cut) - 1
    full = [size == (config.window if i else state.capacity) for i, size in enumerate(cut)]
    closes = [i < last or (full[i] and (more or unfinished == "beacons")) for i in range(len(cut))]
    as_they_come = unfinished == "beacons" and config.placing.inserts
    past = len(state.open_ids) if as_they_come or not config.placing.runs or not closes[0] else 0
    windows = []
    for i, (size, ratio) in enumerate(zip(cut, ratios, strict=True)):
        before, slots = (past, state.window_slots) if i == 0 and past else (0, 0)
        ratio = state.ratio if before and as_they_come and state.ratio is not None else ratio
        beacons = beacons_of(size, ratio) if closes[i] or as_they_come else 0
        beacons -= beacons_of(before, ratio) if as_they_come else 0
        windows.append(Window(size - before, ratio, beacons, before, slots, closes[i]))
    rerun = len(state.open_ids) - past
    start = state.seen_tokens - rerun
    memory, overlap, opened = state.memory_slots, state.overlap_slots, state.window_slots
    groups = tuple(map(state.memory_of, range(len(config.group_shares))))
    return Row(tuple(windows), start, rerun, memory, overlap, opened, groups)


def advance(state: RowState, row: Row, new_ids: Sequence[int], config: BeaconConfig) -> RowState:
    """Return the state of a row after a call that read `new_ids`."""
    position = state.seen_tokens - len(state.open_ids)  # of the first token of the window
    ids, closed = (*state.open_ids, *new_ids), 0
    for window in row.windows:
        if window.closes:
            state = _close(state, window, position + closed, config)
            closed += window.size
        else:
            state = replace(state, window_slots=window.slots)
    return replace(state, seen_tokens=state.seen_tokens + len(new_ids), open_ids=ids[closed:])


def _close(state: RowState, window: Window, position: int, config: BeaconConfig) -> RowState:
    """Return the state after closing a window whose first token is at `position` of the sequence."""
    size, sunk = window.size, min(max(config.sink - position, 0), window.size)
    sink, kept, overlap = state.sink_slots, state.kept_slots, 0
    if window.ratio == 0:
        sink, kept = sink + sunk, kept + size - sunk
    elif window.ratio != "drop":
        sink, overlap = sink + sunk, min(config.overlap, size)
    return replace(
        state,
        windows=state.windows + 1,
        sink_slots=sink,
        kept_slots=kept,
        beacon_slots=state.beacon_slots + window.slots - size,
        group_slots=_group_slots(state, window, config),
        overlap_slots=overlap,
        window_slots=0,
        capacity=config.window,
        ratios=(),
    )


def _group_slots(state: RowState, window: Window, config: BeaconConfig) -> tuple[int, ...]:
    """Return the memory slots of beacons of each group of heads after closing a window."""
    if config.head_budgets is None:
        return ()
    more = config.group_beacons(window.size, int(window.ratio)) if window.beacons else (0,) * len(config.group_shares)
    before = state.group_slots or (0,) * len(more)
    return tuple(map(sum, zip(before, more, strict=True)))


def group_rows(rows: Sequence[Row], config: BeaconConfig, group: int) -> tuple[Row, ...]:
    """Return what a call does to the rows of one group of heads, see `BeaconConfig.group_shares`."""
    if config.head_budgets is None:
        return tuple(rows)
    return tuple(_group_row(row, config, group) for row in rows)


def _group_row(row: Row, config: BeaconConfig, group: int) -> Row:
    windows = tuple(
        replace(one, beacons=config.group_beacons(one.size, int(one.ratio))[group]) if one.beacons else one
        for one in row.windows
    )
    return replace(row, windows=windows, memory=row.group_memory[group] if row.group_memory else row.memory)


def check_positions(rows: Sequence[Row], config: BeaconConfig, positions: int) -> None:
    """Raise a ValueError if a row needs more slots than the backbone has positions."""
    largest = len(config.group_shares) - 1
    for number, row in enumerate(group_rows(rows, config, largest)):
        state = RowState(config.window, row.start, kept_slots=row.memory, overlap_slots=row.overlap)
        position = row.start - row.windows[0].past
        for i, window in enumerate(row.windows):
            needed = state.memory_slots + state.overlap_slots + window.slots
            if needed > positions:
                supported = ", ".join(
                    f"{longest(config, ratio, positions)} tokens at ratio {ratio}" for ratio in config.ratios
                )
                length = position + sum(rest.size for rest in row.windows[i:])
                raise ValueError(
                    f"row {number} of {length} tokens needs {needed} position slots in window {i}, the "
                    f"backbone has {positions} (max_position_embeddings); longest supported, with room to go on: "
                    f"{supported}"
                )
            if window.closes:
                state, position = _close(state, window, position, config), position + window.size
