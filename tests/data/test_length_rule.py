from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.data.length_rule import LengthRule, split_lengths, text_pieces


def pieces(length: int, bos: int | None = None, seed: int = 0, **settings) -> tuple[list[list[int]], dict[str, int]]:
    rule = LengthRule(**({"min_length": 0, "max_length": 20, "window": 8} | settings))
    left_out: Counter[str] = Counter()
    found = text_pieces(np.arange(100, 100 + length), rule, np.random.default_rng(seed), bos, left_out)
    return [piece.tolist() for piece in found], dict(+left_out)


def test_reasons_name_their_limits() -> None:
    rule = LengthRule(min_length=70, max_length=256, window=64)
    assert rule.meaning(["too_short", "invalid_json", "too_long"]) == (
        "too_long: more tokens than max_length=256; too_short: fewer tokens than min_length=70"
    )
    assert "fewer than 70 tokens" in rule.meaning(["leftover"]) and rule.meaning(["invalid_json"]) == ""
    for reason in ("within_one_window", "no_answer"):
        assert "window=64" in rule.meaning([reason])


@given(st.data())
def test_split_lengths_lose_less_than_one_piece(data: st.DataObject) -> None:
    low = data.draw(st.integers(1, 40))
    high = data.draw(st.integers(low, 80))
    total = data.draw(st.integers(high + 1, 500))
    lengths = split_lengths(total, low, high, np.random.default_rng(data.draw(st.integers(0, 99))))
    assert all(low <= length <= high for length in lengths)
    assert 0 <= total - sum(lengths) < low
    if high >= 2 * low:
        assert sum(lengths) == total


def test_split_keeps_every_token_in_order_and_covers_all_lengths_modulo_the_window() -> None:
    found, left_out = pieces(5000)
    assert list(chain.from_iterable(found)) == list(range(100, 5100))
    assert not left_out
    assert {len(piece) % 8 for piece in found} == set(range(8))
    assert found == pieces(5000)[0] != pieces(5000, seed=1)[0]


def test_split_repeats_the_start_of_text_only_where_the_document_has_one() -> None:
    found, _ = pieces(200, bos=100)
    assert all(piece[0] == 100 and 9 <= len(piece) <= 20 for piece in found)
    assert list(chain.from_iterable(piece[1:] for piece in found)) == list(range(101, 300))
    assert list(chain.from_iterable(pieces(200, bos=7)[0])) == list(range(100, 300))


def test_cut_and_drop() -> None:
    assert pieces(21, long="cut") == ([list(range(100, 120))], {})
    assert pieces(21, long="drop") == ([], {"too_long": 1})
    for long in ("split", "cut", "drop"):
        assert pieces(20, long=long) == ([list(range(100, 120))], {})


def test_short_text_is_counted_by_reason() -> None:
    assert pieces(9)[0] == [list(range(100, 109))]
    assert pieces(8) == ([], {"within_one_window": 1})
    assert pieces(8, min_length=9) == ([], {"too_short": 1})
    assert pieces(0, window=1)[1] == {"within_one_window": 1}
    found, left_out = pieces(37, min_length=15)
    assert sum(map(len, found)) == 37 and not left_out
    found, left_out = pieces(28, min_length=15)
    assert (len(found), left_out) == (1, {"leftover": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 8}, "max_length=8 .*at least 9"),
        ({"min_length": 21}, "min_length=21 must be at most max_length=20"),
        ({"min_length": -1}, "min_length=-1"),
        ({"window": 0}, "window=0"),
        ({"max_length": 20.0}, "max_length=20.0 must be an integer"),
        ({"long": "wrap"}, "long='wrap' must be one of split, cut, drop"),
    ],
)
def test_bad_rules(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pieces(30, **settings)
