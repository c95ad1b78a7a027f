"""What one call of the model does: ratios chosen, windows cut, for rows that may stand anywhere in a sequence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from beacon_lit.arch.cache import BeaconCache, RowState
from beacon_lit.arch.config import BeaconConfig, as_tuple, is_count
from beacon_lit.arch.ratio import Draw, Ratio, Ratios, passed_ratios, policy_ratios
from beacon_lit.arch.windows import Row, advance, check_positions, plan, sizes


@dataclass(frozen=True)
class Call:
    """A planned call.

    Attributes:
        rows: what it does to each row.
        states: where each row stands before it.
        open_ratios: the ratio that the window left open in each row has been given, if any.
        unfinished: "raw" or "beacons".
    """

    rows: tuple[Row, ...]
    states: tuple[RowState, ...]
    open_ratios: tuple[Ratio | None, ...]
    unfinished: str

    def advance(self, new_ids: Sequence[Sequence[int]], config: BeaconConfig) -> tuple[RowState, ...]:
        """Where each row stands after the call has read these ids."""
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
    positions: int,
    lengths: Sequence[int],
    cache: BeaconCache | None,
    unfinished: str,
    ratios: Ratios | None,
    draw: Draw | None,
    totals: Sequence[int] | None = None,
    more: Sequence[bool] | None = None,
) -> Call:
    """Plan a call.

    Args:
        config: the beacon settings.
        positions: position slots of the backbone.
        lengths: new raw tokens of each row.
        cache: what was read before.
        unfinished: "raw" or "beacons".
        ratios: as passed to the model; None = the policy.
        draw: counter of a training step, None in eval mode.
        totals: tokens that each row will have, for the policy "adapt-N"; default: those read so far.
        more: for each row, whether more tokens will follow, so that a full window closes in any case.

    Raises:
        ValueError: see `BeaconLM.forward`.
    """
    if cache is not None and len(cache.rows) != len(lengths):
        raise ValueError(f"the cache has {len(cache.rows)} rows, input_ids {len(lengths)}; allowed: the same")
    states = (RowState(config.window),) * len(lengths) if cache is None else cache.rows
    counts = [len(sizes(state, new, config.window)) for state, new in zip(states, lengths, strict=True)]
    more = [False] * len(lengths) if more is None else more
    if ratios is not None:
        chosen = passed_ratios(ratios, counts, config.window)
    else:
        wanted = [undecided(*row, unfinished) for row in zip(states, counts, more, strict=True)]
        chosen = [[config.ratios[0]] * count for count in counts]  # stands where no ratio is needed
        if any(wanted) or (totals is not None and config.adapt is not None):
            chosen, states = _by_policy(config, positions, lengths, states, counts, draw, totals, wanted, unfinished)
    chosen = [
        [_first(state, row[0], ratios is not None and unfinished == "raw"), *row[1:]]
        for state, row in zip(states, chosen, strict=True)
    ]
    rows = plan(lengths, chosen, config, unfinished, states, more)
    check_positions(rows, config, positions)
    given = ratios is not None or unfinished == "beacons"
    open_ratios = tuple(
        row[-1] if given else state.ratio if count == 1 else None
        for state, row, count in zip(states, chosen, counts, strict=True)
    )
    return Call(rows, states, open_ratios, unfinished)


def totals(total_length: int | Sequence[int] | None, rows: int) -> list[int] | None:
    """What a call was given as `total_length`, for each row. ValueError unless it is one count, or one for each."""
    if total_length is None:
        return None
    given = list(as_tuple(total_length))
    if not all(is_count(total, 1) for total in given) or len(given) not in {1, rows}:
        raise ValueError(
            f"total_length={total_length!r} is not allowed; allowed: tokens, at least 1, or a list of {rows}"
        )
    return given if len(given) == rows else given * rows


def undecided(state: RowState, count: int, more: bool, unfinished: str) -> bool:
    """Whether a row has a window that closes (raw) or begins (beacons) in this call and has no ratio yet."""
    closing = count if unfinished == "beacons" or more else count - 1
    return closing > (0 if state.ratio is None else 1)


def _by_policy(
    config: BeaconConfig,
    positions: int,
    lengths: Sequence[int],
    states: Sequence[RowState],
    counts: Sequence[int],
    draw: Draw | None,
    totals: Sequence[int] | None,
    wanted: Sequence[bool],
    unfinished: str,
) -> tuple[list[list[Ratio]], tuple[RowState, ...]]:
    """Ratios by the policy, and the states with what "adapt-N" chose: once for each row, more if memory overflows."""
    reached = [state.seen_tokens + new for state, new in zip(states, lengths, strict=True)]
    upto = [state.windows + count for state, count in zip(states, counts, strict=True)]
    chosen = policy_ratios(config, totals or reached, upto, positions, draw, [state.adapted for state in states])
    chosen = [row[-count:] for row, count in zip(chosen, counts, strict=True)]
    adapts = config.adapt is not None and len(config.ratios) > 1 and (draw is not None or config.eval_ratio is None)
    if not adapts:
        return chosen, tuple(states)
    after = []
    for i, (state, new) in enumerate(zip(states, lengths, strict=True)):
        if wanted[i] or totals is not None:
            ahead = max(new, totals[i] - state.seen_tokens) if totals is not None else new
            ratio = _that_fits(config, positions, state, ahead, cast(int, chosen[i][0]), unfinished)
            chosen[i], state = [ratio] * counts[i], replace(state, adapted=ratio)
        after.append(state)
    return chosen, tuple(after)


def _that_fits(config: BeaconConfig, positions: int, state: RowState, ahead: int, least: int, unfinished: str) -> int:
    """The smallest ratio from `least` on at which the tokens ahead fit the backbone's positions, else the largest."""
    larger = [ratio for ratio in sorted(config.ratios) if ratio >= least]
    count = len(sizes(state, ahead, config.window))
    for ratio in larger:
        try:
            check_positions(plan([ahead], [[ratio] * count], config, unfinished, [state]), config, positions)
        except ValueError:
            continue
        return ratio
    return larger[-1]


def _first(state: RowState, ratio: Ratio, given: bool) -> Ratio:
    """The ratio of the window that is open. Raw: the smallest that calls gave for it, "drop" being the largest."""
    if state.ratio is None:
        return ratio
    if not given:
        return state.ratio
    return min(state.ratio, ratio, key=lambda value: float("inf") if value == "drop" else float(value))
