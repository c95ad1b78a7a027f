"""The index arithmetic of windows: what every layout must satisfy, and one written out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit import BeaconConfig
from beacon_lit.arch import longest
from beacon_lit.arch.plan.build import build_layout
from beacon_lit.arch.plan.state import RowState
from beacon_lit.arch.plan.windows import Row, check_positions, plan, sizes
from tests.arch.cases import Case, beacons, cases
from tests.arch.tiny import examples, tiny, tokens


def windows_of(case: Case) -> tuple[Row, ...]:
    return plan(case.lengths, case.ratios, case.beacon, case.unfinished)


def memory_sizes(row: Row, beacon: BeaconConfig) -> list[tuple[int, int]]:
    """(memory slots, overlap slots) that each window of a row sees, counted from the definition."""
    found, memory, tail = [], 0, 0
    for i, window in enumerate(row.windows):
        found.append((memory, tail))
        tail = 0
        if window.ratio == 0:
            memory += window.length
        elif window.ratio != "drop":
            memory += window.beacons + (min(beacon.sink, window.length) if i == 0 else 0)
            tail = min(beacon.overlap, window.length)
    return found


def count(length: int, window: int) -> int:
    """Windows of a row."""
    return len(sizes(RowState(window), length, window))


@examples(200)
@given(case=cases(rows=3))
def test_plan(case: Case) -> None:
    window = case.beacon.window
    assert [count(length, window) for length in case.lengths] == [len(row) for row in case.ratios]
    for length, ratios, planned in zip(case.lengths, case.ratios, windows_of(case), strict=True):
        row = planned.windows
        assert sum(part.length for part in row) == length
        assert all(part.length == window for part in row[:-1]) and 1 <= row[-1].length <= window
        assert [part.ratio for part in row] == list(ratios)
        for part in row:
            compressed = part.ratio not in (0, "drop") and not (part is row[-1] and case.unfinished == "raw")
            partial = part.length < window and case.beacon.placement != "interleave"
            assert part.beacons == (part.length // part.ratio if compressed and not partial else 0)


@examples(200)
@given(case=cases(rows=3))
def test_every_token_asks_once_and_keys_are_counted(case: Case) -> None:
    rows = windows_of(case)
    layout = build_layout(rows, case.beacon)
    packed = layout.raw + layout.beacons
    assert layout.raw == sum(case.lengths)
    assert layout.beacons == sum(window.beacons for row in rows for window in row.windows)
    assert sorted(layout.q_index.tolist()) == list(range(packed))
    assert layout.q_index[layout.stream_index].tolist() == list(range(packed))
    expected = []
    for row in rows:
        for (memory, tail), window in zip(memory_sizes(row, case.beacon), row.windows, strict=True):
            own = window.length + window.beacons
            expected.append((own, memory + tail + own))
    assert list(layout.lengths) == expected
    assert layout.cu_q.tolist() == [sum(q for q, _ in expected[:i]) for i in range(len(expected) + 1)]
    assert layout.cu_k.tolist() == [sum(k for _, k in expected[:i]) for i in range(len(expected) + 1)]
    assert (layout.max_q, layout.max_k) == (max(q for q, _ in expected), max(k for _, k in expected))
    assert len(layout.k_index) == len(layout.k_slot) == sum(k for _, k in expected)


@examples(100)
@given(case=cases(rows=3))
def test_every_token_has_one_key_of_its_own_and_all_others_are_shared(case: Case) -> None:
    layout = build_layout(windows_of(case), case.beacon)
    assert layout.k_index[layout.k_first].tolist() == list(range(layout.raw + layout.beacons))
    assert sorted([*layout.k_first.tolist(), *layout.k_repeats.tolist()]) == list(range(len(layout.k_index)))


@examples(200)
@given(case=cases(rows=3))
def test_slots_of_a_window_are_contiguous_from_0(case: Case) -> None:
    layout = build_layout(windows_of(case), case.beacon)
    before = [size for row in windows_of(case) for size in memory_sizes(row, case.beacon)]
    for i, (queries, keys) in enumerate(layout.lengths):
        q_slot = layout.q_slot[layout.cu_q[i] : layout.cu_q[i + 1]].tolist()
        k_slot = layout.k_slot[layout.cu_k[i] : layout.cu_k[i + 1]].tolist()
        q_index = layout.q_index[layout.cu_q[i] : layout.cu_q[i + 1]]
        k_index = layout.k_index[layout.cu_k[i] : layout.cu_k[i + 1]]
        base = sum(before[i])
        assert k_index[base:].tolist() == q_index.tolist() and k_slot[base:] == q_slot  # own tokens come last
        assert len(set(k_index.tolist())) == keys  # no key twice
        assert k_slot[:base] == list(range(base))
        if layout.visibility is not None:
            raw = [slot for slot, index in zip(q_slot, q_index.tolist(), strict=True) if index < layout.raw]
            assert raw == list(range(base, base + len(raw)))
            assert max(q_slot) < base + queries
        else:
            assert q_slot == list(range(base, base + queries))


@examples(100)
@given(case=cases(rows=3))
def test_rows_do_not_mix(case: Case) -> None:
    rows = windows_of(case)
    layout = build_layout(rows, case.beacon)
    assert list(layout.lengths) == [pair for row in rows for pair in build_layout((row,), case.beacon).lengths]
    first_raw, first_beacon, window = 0, layout.raw, 0
    for row in rows:
        raw = range(first_raw, first_raw + sum(part.length for part in row.windows))
        beacon = range(first_beacon, first_beacon + sum(part.beacons for part in row.windows))
        for _ in row.windows:
            keys = layout.k_index[layout.cu_k[window] : layout.cu_k[window + 1]].tolist()
            assert all(key in raw or key in beacon for key in keys)
            window += 1
        first_raw, first_beacon = raw.stop, beacon.stop


def test_the_one_in_the_docstring() -> None:
    config = BeaconConfig(window=4, ratios=2, sink=1, overlap=1, placement="interleave")
    layout = build_layout(plan([8], [[2, 2]], config, "beacons"), config)
    names = [f"t{i}" for i in range(8)] + [f"b{i}" for i in range(4)]
    second = [names[i] for i in layout.k_index[6:]]
    assert second == ["t0", "b0", "b1", "t3", "t4", "t5", "b2", "t6", "t7", "b3"]
    assert [names[i] for i in layout.q_index[6:]] == ["t4", "t5", "b2", "t6", "t7", "b3"]
    assert layout.k_slot[6:].tolist() == list(range(10)) and layout.q_slot[6:].tolist() == list(range(4, 10))


@pytest.mark.parametrize(
    ("placement", "order", "slots"),
    [
        ("interleave", "t0 t1 b0 t2 t3 b1", [0, 1, 2, 3, 4, 5]),
        ("append", "t0 t1 t2 t3 b0 b1", [0, 1, 2, 3, 4, 5]),
        ("step-expansion", "t0 t1 b0 t2 t3 b1", [0, 1, 2, 2, 3, 5]),
    ],
)
def test_placements(placement: str, order: str, slots: list[int]) -> None:
    config = BeaconConfig(window=4, ratios=2, placement=placement)
    layout = build_layout(plan([4], [[2]], config, "beacons"), config)
    assert " ".join(f"t{i}" if i < 4 else f"b{i - 4}" for i in layout.q_index.tolist()) == order
    assert layout.q_slot.tolist() == slots
    assert (layout.visibility is not None) == (placement == "step-expansion")


@examples(300)
@given(case=cases(), positions=st.integers(1, 60))
def test_positions_are_refused_exactly_where_slots_pass_them(case: Case, positions: int) -> None:
    rows = windows_of(case)
    needed = int(build_layout(rows, case.beacon).k_slot.max()) + 1
    if needed <= positions:
        check_positions(rows, case.beacon, positions)
    else:
        with pytest.raises(ValueError, match=f"row 0 of {case.lengths[0]} tokens.*backbone has {positions}"):
            check_positions(rows, case.beacon, positions)


@examples(200)
@given(config=beacons(), positions=st.integers(40, 200), ratio=st.integers(0, 3), unfinished=st.booleans())
def test_the_longest_row_is_supported(config: BeaconConfig, positions: int, ratio: int, unfinished: bool) -> None:
    chosen = config.ratios[ratio % len(config.ratios)]
    length = longest(config, chosen, positions)
    ratios = [[chosen] * count(length, config.window)]
    rows = plan([length], ratios, config, "beacons" if unfinished else "raw")
    check_positions(rows, config, positions)


@pytest.mark.parametrize(
    ("beacon", "lengths"),
    [
        # sink 2, 13 windows of 4 beacons, and 8 + 4 slots at work, or 26 windows of 2 beacons, and 8 + 2
        (BeaconConfig(window=8, ratios=(2, 4), sink=2, placement="interleave"), {2: 13 * 8 - 1, 4: 27 * 8 - 1}),
        # the largest head keeps 8 or 5 slots of a window
        (
            BeaconConfig(
                window=8, ratios=(2, 4), sink=2, placement="select", params=("k", "v"),
                head_budgets=((2.5, 0.5), (0.5, 0.5)),
            ),
            {2: 6 * 8 - 1, 4: 10 * 8 - 1},
        ),
    ],
)  # fmt: skip
def test_a_row_that_is_too_long_names_the_longest_length(beacon: BeaconConfig, lengths: dict[int, int]) -> None:
    lm = tiny("qwen2", beacon, max_position_embeddings=64)
    assert lengths == {ratio: longest(beacon, ratio, 64) for ratio in (2, 4)}
    for ratio, length in lengths.items():
        lm(tokens(1, length), ratios=ratio)
        with pytest.raises(ValueError, match="longest supported") as error:
            lm(tokens(1, length + 3 * beacon.window), ratios=ratio)
        assert f"{lengths[2]} tokens at ratio 2, {lengths[4]} tokens at ratio 4" in str(error.value)
        assert "max_position_embeddings" in str(error.value) and " 64 " in str(error.value)
