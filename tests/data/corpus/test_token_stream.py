"""A stream of tokens continues from any position."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.data.corpus.token_stream import DocumentTokens, TokenPosition, TokenStream, length_bin


@given(st.lists(st.integers(0, 9), max_size=12), st.lists(st.integers(1, 15), max_size=12), st.integers(0, 12))
def test_a_stream_goes_on_from_any_position(sizes, counts, stop):
    ids = np.arange(sum(sizes), dtype=np.int32)
    parts = np.split(ids, np.cumsum(sizes)[:-1]) if sizes else []
    documents = [DocumentTokens(part, {"bad": i}) for i, part in enumerate(parts)]
    fitting = [count for i, count in enumerate(counts) if sum(counts[: i + 1]) <= sum(sizes)]
    stream = TokenStream(documents, TokenPosition())
    taken = [stream.take(count) for count in fitting[:stop]]
    resumed = TokenStream(documents[stream.position.documents :], stream.position)
    assert resumed.position == stream.position
    for count in [*fitting[stop:], 200]:
        a, b = stream.take(count), resumed.take(count)
        assert (a is None) == (b is None) == (count == 200) and (a is None or (a == b).all())
        taken.append(a)
    assert stream.position == resumed.position and stream.available == sum(sizes) - sum(fitting)
    assert np.concatenate([*(part for part in taken[:-1]), ids[sum(fitting) :]]).tolist() == ids.tolist()


def test_the_position_tells_a_shifted_stream():
    documents = [DocumentTokens(np.arange(5, dtype=np.int32), {}), DocumentTokens(np.arange(5, 9, dtype=np.int32), {})]
    stream = TokenStream(documents, TokenPosition())
    stream.take(6)
    assert stream.position == TokenPosition(1, 1, {"4": 2}, {}, 3)
    shifted = TokenStream(documents[1:], replace(stream.position, offset=2))
    assert shifted.take(2).tolist() == [7, 8] != TokenStream(documents[1:], stream.position).take(2).tolist()


def test_bins_are_half_octaves():
    for length in range(1, 5000):
        assert 2 ** (length_bin(length) / 2) <= length * (1 + 1e-12) and length < 2 ** ((length_bin(length) + 1) / 2)
