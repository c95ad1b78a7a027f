"""Ratio policies, what a call may pass instead, and how long a row each ratio allows."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from beacon_lit import BeaconConfig
from beacon_lit.arch import Draw, core
from beacon_lit.arch.plan.build import build_layout
from beacon_lit.arch.plan.ratios import adapt_ratio, longest, passed_ratios, policy_in
from beacon_lit.arch.ratios import RowWindows
from tests.arch.cases import beacons
from tests.arch.tiny import examples, tiny, tokens

CONFIG = BeaconConfig(window=8, ratios=(2, 4, 8), placement="interleave")
DRAW = Draw(seed=3)


def policy_ratios(
    config: BeaconConfig, lengths: list[int], windows: list[int], positions: int, draw: Draw | None
) -> list[list[int | str]]:
    policy, limits = policy_in(config, training=draw is not None), config.limits(positions)
    rows = [RowWindows(row, 0, *pair) for row, pair in enumerate(zip(windows, lengths, strict=True))]
    return [list(policy.choose(windows, limits, draw).ratios) for windows in rows]


def policy(name: str, windows: list[int], draw: Draw | None = DRAW, **values: Any) -> list[list[int | str]]:
    config = BeaconConfig(
        **{"window": 8, "ratios": (2, 4, 8), "placement": "interleave", "ratio_policy": name, **values}
    )
    return policy_ratios(config, [8 * count for count in windows], windows, 512, draw)


def test_one_ratio_is_fixed_under_any_policy() -> None:
    for name in ("random", "random-per-sequence", "cycle", "adapt-4"):
        assert policy(name, [3, 1], ratios=4) == policy(name, [3, 1], draw=None, ratios=4) == [[4, 4, 4], [4]]


def test_cycle() -> None:
    assert policy("cycle", [5, 2]) == policy("cycle", [5, 2], draw=None) == [[2, 4, 8, 2, 4], [2, 4]]


@pytest.mark.parametrize("name", ["random", "random-per-sequence"])
def test_random_draws_repeat_and_change_with_the_counter(name: str) -> None:
    counters = [Draw(), Draw(seed=1), Draw(rank=1), Draw(step=1)]
    draws = [policy(name, [30] * 30, draw) for draw in counters]
    assert draws == [policy(name, [30] * 30, draw) for draw in counters]
    assert all(a != b for i, a in enumerate(draws) for b in draws[:i])
    assert Draw(seed=1, rank=2, step=3).next() == Draw(seed=1, rank=2, step=4)


@pytest.mark.parametrize("name", ["random", "random-per-sequence"])
def test_a_draw_depends_on_no_other_row_or_window(name: str) -> None:
    whole = policy(name, [9, 5, 7])
    assert policy(name, [9, 30, 7])[::2] == whole[::2]
    assert policy(name, [4, 5])[0] == whole[0][:4]


def test_random_is_per_window_and_roughly_uniform() -> None:
    rows = policy("random", [60] * 50)
    counts = Counter(ratio for row in rows for ratio in row)
    assert counts.keys() == {2, 4, 8} and all(900 < count < 1100 for count in counts.values())  # 26 = one deviation
    assert all(len(set(row)) == 3 for row in rows)
    pairs = Counter((row[i], row[i + 1]) for row in rows for i in range(59))
    assert len(pairs) == 9 and all(270 < count < 390 for count in pairs.values())
    steps = Counter(Draw(step=step).pick(0, 0, (2, 4, 8)) for step in range(900))
    assert all(240 < count < 360 for count in steps.values())


def test_random_per_sequence_has_one_ratio_per_row() -> None:
    rows = policy("random-per-sequence", [3] * 600)
    assert all(len(set(row)) == 1 for row in rows)
    assert all(150 < count < 250 for count in Counter(row[0] for row in rows).values())


@pytest.mark.parametrize("name", ["random", "random-per-sequence"])
def test_eval_never_draws(name: str) -> None:
    with pytest.raises(ValueError, match=rf"ratio_policy='{name}'.*ratios=.*2, 4, 8, 0, 'drop'.*eval_ratio"):
        policy(name, [3], draw=None)
    assert policy(name, [3], draw=None, eval_ratio=4) == [[4, 4, 4]]
    assert policy(name, [3], draw=None, eval_ratio=0) == [[0, 0, 0]]
    assert policy(name, [3], draw=None, eval_ratio="drop") == [["drop"] * 3]
    assert set(policy(name, [99], eval_ratio=1)[0]) <= {2, 4, 8}  # training takes no notice of it


def adapt_rule(config: BeaconConfig, length: int, positions: int) -> int:
    """`sink + windows * w/ratio + overlap + w + w/ratio <= positions` as it is written; else the largest ratio."""
    w = config.window
    for ratio in sorted(config.ratios):
        windows = length // w
        if config.sink + windows * (w // ratio) + config.overlap + w + w // ratio <= positions:
            return ratio
    return max(config.ratios)


@examples(300)
@given(config=beacons(), length=st.integers(1, 400), more=st.integers(0, 30), positions=st.integers(20, 200))
def test_adapt_is_the_smallest_ratio_that_fits(config: BeaconConfig, length: int, more: int, positions: int) -> None:
    w = config.window
    assume(config.sink + config.overlap + w + w // min(config.ratios) <= positions)  # else no model is made
    expected = adapt_rule(config, length + more, positions)
    assert adapt_ratio(config, length + more, positions) == expected
    if len(config.ratios) > 1:
        adapted = BeaconConfig(**{**vars(config), "ratio_policy": f"adapt-{more}"})
        windows = [-(-length // config.window), 1]
        rows = policy_ratios(adapted, [length, 1], windows, positions, None)
        assert rows == [[expected] * windows[0], [adapt_rule(config, 1 + more, positions)]]


def test_adapt_as_in_the_fixture() -> None:
    """150 tokens and 10 more in 64 positions: 10 windows of 16 at ratio 2 are 80 slots, at ratio 4 40 + 16 + 4."""
    config = BeaconConfig(window=16, ratios=(2, 4, 8), ratio_policy="adapt-10", placement="interleave")
    assert policy_ratios(config, [150], [10], 64, None) == [[4] * 10]


def test_adapt_on_the_published_shape() -> None:
    config = BeaconConfig(window=2048, ratios=(2, 4, 8, 16, 32), placement="interleave")
    for ratio, tokens_at_most in ((2, longest(config, 2, 32768)), (4, longest(config, 4, 32768))):
        assert adapt_ratio(config, tokens_at_most, 32768) == ratio
        assert adapt_ratio(config, tokens_at_most + 1, 32768) == 2 * ratio
    assert longest(config, 2, 32768) == 30 * 2048 - 1  # 29 windows of 1,024 beacons, and 3,072 slots at work


def test_passed_ratios() -> None:
    assert passed_ratios(4, [2, 1], 8) == [[4, 4], [4]]
    assert passed_ratios(0, [2], 8) == [[0, 0]]
    assert passed_ratios("drop", [2], 8) == [["drop", "drop"]]
    assert passed_ratios([2, "drop", 0], [2, 3], 8) == [[2, "drop"], [2, "drop", 0]]
    assert passed_ratios(((2, 4), [8]), [2, 1], 8) == [[2, 4], [8]]


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        (3, "ratios=3 .*divisor of window=8"),
        (-2, "ratios=-2"),
        (True, "ratios=True"),
        (2.0, "ratios=2.0"),
        ("keep", "ratios='keep'"),
        ([2, 3], "ratios=3"),
        ([2, 2.5], r"ratios=.*2\.5"),
        ([2], r"ratios=\[2\] has 1 entries for 2 windows"),
        ([], r"ratios=\[\] has 0 entries"),
        ([[2, 2]], r"ratios=\[\[2, 2\]\] has 1 rows; the batch has 2"),
        ([[2, 2], []], "has 0 entries for 1 windows"),
        ([[2, 2], [5]], "ratios=5"),
        ([[2, 2], [None]], "ratios=None"),
        ([None, None], "ratios=None"),
    ],
)
def test_bad_ratios_are_refused(ratios: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        passed_ratios(ratios, [2, 1], 8)


def test_forward_takes_ratios_in_every_form() -> None:
    lm, ids = tiny("qwen2", CONFIG), tokens(2, 29)
    expected = lm(ids, ratios=4).logits
    for ratios in ([4] * 4, (4,) * 9, [[4] * 4, [4] * 4], ((4,) * 4,) * 2):
        assert torch.equal(lm(ids, ratios=ratios).logits, expected)
    mixed = lm(ids, ratios=[[4] * 4, [2, 8, 4, 4]]).logits
    assert torch.equal(mixed[0], expected[0]) and not torch.allclose(mixed[1], expected[1], atol=1e-2)


def test_forward_draws_by_its_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[tuple[int | str, ...]]] = []

    def spy(rows: Any, *args: Any) -> Any:
        seen.append([tuple(window.ratio for window in row.windows) for row in rows])
        return build_layout(rows, *args)

    monkeypatch.setattr(core, "build_layout", spy)
    lm, ids = tiny("qwen2", CONFIG), tokens(3, 101)
    lm.draw = Draw(seed=5, rank=1, step=7)
    lm(ids)
    lm(ids)
    assert seen[0] == [tuple(Draw(5, 1, 7).pick(row, i, (2, 4, 8)) for i in range(13)) for row in range(3)]
    assert seen[1] == [tuple(Draw(5, 1, 8).pick(row, i, (2, 4, 8)) for i in range(13)) for row in range(3)]
    assert lm.draw == Draw(5, 1, 9)
    lm.draw = Draw(5, 1, 7)
    lm(ids)
    assert seen[2] == seen[0]
    lm.eval()(ids, ratios=2)
    assert lm.draw == Draw(5, 1, 8) and seen[3] == [(2,) * 13] * 3


def test_eval_of_more_than_a_window_wants_a_ratio() -> None:
    lm = tiny("qwen2", CONFIG).eval()
    lm(tokens(1, 8))  # nothing closes
    with pytest.raises(ValueError, match="pass ratios="):
        lm(tokens(1, 9))
    with pytest.raises(ValueError, match="pass ratios="):
        lm(tokens(1, 8), unfinished="beacons")
