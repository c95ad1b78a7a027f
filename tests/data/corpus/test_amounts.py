"""Amounts and shares are exact."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.data.corpus.amounts import allot, parse_amounts, parse_mixture, piece_lengths, shard_bounds


def test_amounts_are_parsed_to_the_token():
    assert parse_amounts("8192:500M 20480:1.5B 64:7 100:2K 3:0.1T") == {
        8192: 500_000_000, 20480: 1_500_000_000, 64: 7, 100: 2000, 3: 100_000_000_000,
    }  # fmt: skip
    assert parse_amounts("1:1.000001M") == {1: 1_000_001}
    with pytest.raises(ValueError, match="whole tokens"):
        parse_amounts("1:1.0000001M")


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=6).filter(sum),
    st.dictionaries(st.integers(1, 50), st.integers(1, 3000), min_size=1, max_size=4),
    st.integers(1, 500),
)
def test_pieces_are_allotted_to_less_than_one(weights, amounts, shard_tokens):
    shares = {str(i): Fraction(weight, sum(weights)) for i, weight in enumerate(weights)}
    allotted = allot(amounts, shares)
    for length, tokens in amounts.items():
        pieces = -(-tokens // length)
        assert sum(allotted[name][length] for name in shares) == pieces
        assert all(abs(allotted[name][length] - shares[name] * pieces) < 1 for name in shares)
    for name, needed in allotted.items():
        lengths = piece_lengths(needed, 0, name)
        assert Counter(lengths.tolist()) == Counter({n: count for n, count in needed.items() if count})
        bounds = shard_bounds(lengths, shard_tokens)
        assert [piece for first, last in bounds for piece in range(first, last)] == list(range(len(lengths)))
        assert all(last == first + 1 or lengths[first:last].sum() <= shard_tokens for first, last in bounds)


def test_a_mixture_is_exact_in_decimals():
    thirds = parse_mixture(["a", "b", "c"], {"a": 33.3, "b": 33.3, "c": 33.4})
    assert sum(thirds.values()) == 1 and parse_mixture(["a", "b", "c"], None)["a"] == Fraction(1, 3)
    with pytest.raises(ValueError, match=r"sum to 100, not 99\.9"):
        parse_mixture(["a", "b", "c"], {"a": 33.3, "b": 33.3, "c": 33.3})
