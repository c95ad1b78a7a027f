"""Head budgets from importance, against slow and obviously right code."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit import BeaconConfig
from beacon_lit.arch.plan.budgets import grouped, head_budgets, important_shares
from tests.arch.tiny import examples

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(2, 12))


@st.composite
def importances(draw: st.DrawFn) -> np.ndarray:
    """(layers, heads, tokens) of few different values, so that some are equal."""
    shape = draw(SHAPES)
    size = int(np.prod(shape))
    return np.array(draw(st.lists(st.integers(0, 40), min_size=size, max_size=size)), float).reshape(shape) / 40


@examples(200)
@given(importances(), st.integers(2, 8))
def test_a_head_has_the_share_of_its_tokens_among_the_most_important(importance: np.ndarray, ratio: int) -> None:
    layers, heads, tokens = importance.shape
    ranked = sorted((importance[i, j, t], i, j) for i in range(layers) for j in range(heads) for t in range(tokens))
    ranked.reverse()
    most = max(1, len(ranked) // ratio)
    chosen = [entry for entry in ranked if entry[0] >= ranked[most - 1][0]]
    assert len(chosen) >= most
    expected = [
        [sum(entry[1:] == (i, j) for entry in chosen) * layers * heads / len(chosen) for j in range(heads)]
        for i in range(layers)
    ]
    np.testing.assert_allclose(important_shares(importance, ratio), expected)


@examples(200)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=9), st.integers(1, 5))
def test_no_other_grouping_changes_shares_less(values: list[int], groups: int) -> None:
    shares = np.array(values) / 8
    found = grouped(shares[None], groups)[0]
    ascending = np.sort(shares)
    parts = [
        np.split(ascending, cuts)
        for count in range(min(groups, len(values)))
        for cuts in combinations(range(1, len(values)), count)
    ]
    least = min(sum(((part - part.mean()) ** 2).sum() for part in split) for split in parts)
    assert ((found - shares) ** 2).sum() == pytest.approx(least, abs=1e-9)
    assert len({round(value, 9) for value in found}) <= groups
    assert found.mean() == pytest.approx(shares.mean())
    assert (np.diff(found[np.argsort(shares, kind="stable")]) > -1e-9).all()


@examples(200)
@given(importances(), st.integers(2, 8), st.floats(0.01, 1), st.integers(1, 5))
def test_a_config_takes_the_budgets(importance: np.ndarray, ratio: int, even: float, groups: int) -> None:
    budgets = head_budgets(importance, ratio, even, groups)
    config = BeaconConfig(placement="select", params=("k", "v"), head_budgets=budgets)
    assert np.shape(config.head_budgets) == importance.shape[:2] and len(config.group_shares) <= groups


def test_by_hand() -> None:
    """Of 16 tokens four count: three of head 1 in layer 0, one of head 0 in layer 1."""
    importance = np.array([[[1, 2, 3, 4], [13, 14, 15, 5]], [[16, 6, 7, 8], [9, 10, 11, 12]]]) / 16
    assert important_shares(importance, 4).tolist() == [[0, 3], [1, 0]]
    assert head_budgets(importance, 4, 0.5, 4) == ((0.5, 2.0), (1.0, 0.5))
    assert head_budgets(importance, 4, 0.5, 2) == ((0.667, 2.0), (0.667, 0.667))
    assert head_budgets(importance, 4, 1, 4) == ((1.0, 1.0), (1.0, 1.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((1, 0.5, 4), "ratio=1 is not allowed; allowed: an integer, at least 2"),
        (([2, 4], 0.5, 4), r"ratio=\[2, 4\] is not allowed"),
        ((8, 0, 4), "even=0 is not allowed: every head needs a share above 0; allowed: 0.01 to 1"),
        ((8, 1.5, 4), "even=1.5 is not allowed"),
        ((8, None, 4), "even=None is not allowed"),
        ((8, 0.5, 0), "groups=0 is not allowed; allowed: an integer, at least 1"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head_budgets(np.ones((2, 2, 4)), *settings)
