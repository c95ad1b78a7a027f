"""Plan one call of the model: choose ratios and cut windows, for rows that may stand anywhere in a sequence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from beacon_lit.arch.config import BeaconConfig
from beacon_lit.arch.plan.ratios import passed_ratios, policy_in
from beacon_lit.arch.plan.state import RowState
from beacon_lit.arch.plan.windows import Row, advance, check_positions, plan, sizes
from beacon_lit.arch.ratios import Draw, Limits, Ratio, Ratios, RowWindows
from beacon_lit.checks import as_tuple, is_count


@dataclass(frozen=True)
class Call:
    """A planned call.

    Attributes:
        rows: what the call does to each row.
        states: state of each row before the call.
        open_ratios: ratio of the window that each row leaves open; None while it has none.
        unfinished: "raw" or "beacons".
    """

    rows: tuple[Row, ...]
    states: tuple[RowState, ...]
    open_ratios: tuple[Ratio | None, ...]
    unfinished: str

    def advance(self, new_ids: Sequence[Sequence[int]], config: BeaconConfig) -> tuple[RowState, ...]:
        """Return the state of each row after the call has read these ids."""
        after = []
        for before, row, ids, ratio in zip(self.states, self.rows, new_ids, self.open_ratios, strict=True):
            state = advance(before, row, ids, config)
            if state.open_ids and ratio is not None and ratio != state.ratio:
                had = len(before.open_ids) if state.windows == before.windows else 0
                state = replace(state, ratios=(*state.ratios, (had, ratio)))
            after.append(state)
        return tuple(after)


def plan_call(
    config: BeaconConfig,
    limits: Limits,
    lengths: Sequence[int],
    states: Sequence[RowState] | None,
    unfinished: str,
    ratios: Ratios | None,
    draw: Draw | None,
    totals: Sequence[int] | None = None,
    more: Sequence[bool] | None = None,
) -> Call:
    """Plan a call.

    Args:
        config: the beacon settings.
        limits: limits of ratios on the backbone.
        lengths: new raw tokens of each row.
        states: state of each row; None: all rows are at their start.
        unfinished: "raw" or "beacons".
        ratios: `ratios` as passed to the model; None: the policy chooses.
        draw: counter of a training step; None in eval mode.
        totals: raw tokens that each row will have, for policies that plan ahead; default: the tokens read so far.
        more: for each row, whether more tokens will follow, so that a full window closes; default: no.

    Raises:
        ValueError: see `BeaconLM.forward`.
    """
    states = tuple(states) if states is not None else (RowState(config.window),) * len(lengths)
    if len(states) != len(lengths):
        raise ValueError(f"the cache has {len(states)} rows, input_ids {len(lengths)}; allowed: the same")
    counts = [len(sizes(state, new, config.window)) for state, new in zip(states, lengths, strict=True)]
    more = [False] * len(lengths) if more is None else more
    chosen: list[Sequence[Ratio]]
    if ratios is not None:
        chosen = list(passed_ratios(ratios, counts, config.window))
    else:
        needed = [undecided(*row, unfinished) for row in zip(states, counts, more, strict=True)]
        chosen, states = _by_policy(config, limits, lengths, states, counts, draw, totals, needed, unfinished)
    chosen = [
        [_open_ratio(state, row[0], ratios is not None and unfinished == "raw"), *row[1:]]
        for state, row in zip(states, chosen, strict=True)
    ]
    rows = plan(lengths, chosen, config, unfinished, states, more)
    check_positions(rows, config, limits.positions)
    given = ratios is not None or unfinished == "beacons"
    open_ratios = tuple(
        row[-1] if given else state.ratio if count == 1 else None
        for state, row, count in zip(states, chosen, counts, strict=True)
    )
    return Call(rows, states, open_ratios, unfinished)


def totals(total_length: int | Sequence[int] | None, rows: int) -> list[int] | None:
    """Spread `total_length` over rows. Raise a ValueError unless it is a count of tokens, or one count per row."""
    if total_length is None:
        return None
    given = list(as_tuple(total_length))
    if not all(is_count(total, 1) for total in given) or len(given) not in {1, rows}:
        raise ValueError(
            f"total_length={total_length!r} is not allowed; allowed: a number of tokens, at least 1, or {rows} of them"
        )
    return given if len(given) == rows else given * rows


def check_totals(totals: Sequence[int] | None, states: Sequence[RowState], lengths: Sequence[int]) -> None:
    """Raise a ValueError if a row's total is below the tokens that the row has after reading `lengths` new ones."""
    if totals is None:
        return
    for row, (total, state, new) in enumerate(zip(totals, states, lengths, strict=True)):
        least = state.seen_tokens + new
        if total < least:
            raise ValueError(
                f"total_length={total} is not allowed: row {row} has {least} tokens; allowed: {least} or more"
            )


def undecided(state: RowState, count: int, more: bool, unfinished: str) -> bool:
    """Whether a row has a window without a ratio that closes (raw) or begins (beacons) in this call."""
    closing = count if unfinished == "beacons" or more else count - 1
    return closing > (0 if state.ratio is None else 1)


def _by_policy(
    config: BeaconConfig,
    limits: Limits,
    lengths: Sequence[int],
    states: Sequence[RowState],
    counts: Sequence[int],
    draw: Draw | None,
    totals: Sequence[int] | None,
    needed: Sequence[bool],
    unfinished: str,
) -> tuple[list[Sequence[Ratio]], tuple[RowState, ...]]:
    """Let the policy choose, and put what it remembers into the states. Other rows get an arbitrary ratio."""
    policy = policy_in(config, training=draw is not None)
    plans_ahead = totals is not None and policy.plans_ahead
    chosen: list[Sequence[Ratio]] = []
    after = []
    for i, (state, new, count) in enumerate(zip(states, lengths, counts, strict=True)):
        if needed[i] or plans_ahead:
            length = state.seen_tokens + new if totals is None else totals[i]
            ahead = new if totals is None else max(new, length - state.seen_tokens)
            fits = partial(_fits, config, limits, state, ahead, unfinished)
            windows = RowWindows(i, state.windows, count, length, state.memory_slots, state.ratio, state.adapted, fits)
            choice = policy.choose(windows, limits, draw)
            chosen.append(choice.ratios)
            state = replace(state, adapted=choice.remembered)
        else:
            chosen.append([config.ratios[0]] * count)
        after.append(state)
    return chosen, tuple(after)


def _fits(config: BeaconConfig, limits: Limits, state: RowState, ahead: int, unfinished: str, ratio: int) -> bool:
    """Whether `ahead` more tokens fit the positions if all their windows get `ratio`."""
    count = len(sizes(state, ahead, config.window))
    try:
        check_positions(plan([ahead], [[ratio] * count], config, unfinished, [state]), config, limits.positions)
    except ValueError:
        return False
    return True


def _open_ratio(state: RowState, ratio: Ratio, given: bool) -> Ratio:
    """Return the open window's ratio; if `given`, the smaller of its own and the call's, "drop" being the largest."""
    if state.ratio is None:
        return ratio
    if not given:
        return state.ratio
    return min(state.ratio, ratio, key=lambda value: float("inf") if value == "drop" else float(value))
