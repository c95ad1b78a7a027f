"""Readers lose and repeat nothing in a pass, and continue at every position."""

import json
from itertools import chain, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.data.records import Tolerance
from beacon_lit.data.stream.reader import RecordPosition
from tests.data.stream.numbered import Numbered, passes, share


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(sum), st.integers(1, 7), st.data())
def test_readers_share_every_pass_out(sizes: list[int], readers: int, data: st.DataObject) -> None:
    source = Numbered("a", tuple(sizes))
    whole = passes(share(source), 2)
    assert sorted(whole[0]) == sorted(whole[1]) and len(set(whole[0])) == len(whole[0])
    found: list[list[list[str]]] = []
    for reader in range(readers):
        try:
            found.append(passes(share(source, reader, readers), 2))
        except ValueError as error:
            assert f"in the share of reader {reader + 1} of {readers}" in str(error)
            return
    for epoch in (0, 1):
        assert sorted(chain.from_iterable(own[epoch] for own in found)) == sorted(whole[0])


def test_every_pass_has_another_order_of_shards() -> None:
    first, second = passes(share(Numbered("a", (3,) * 8)), 2)
    assert first != second and passes(share(Numbered("a", (3,) * 8)), 2) == [first, second]
    one, two = (passes(share(Numbered("a", (3,) * 8), reader, 2), 1)[0] for reader in (0, 1))
    assert one and two and not set(one) & set(two)


@given(st.lists(st.integers(2, 9), min_size=1, max_size=4), st.integers(0, 1), st.sampled_from([1, 3, 100]))
def test_a_share_goes_on_at_every_position(sizes: list[int], reader: int, chunk: int) -> None:
    source = Numbered("a", (*sizes, 2), bad=("a0.0",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beacon_lit.data.stream.reader.CHUNK", chunk)
        whole = list(islice(share(source, reader, 2).samples(RecordPosition()), 60))
        for place in range(0, 40, 3):
            position = RecordPosition(*json.loads(json.dumps(whole[place][1])))
            rest = list(islice(share(source, reader, 2).samples(position), 20))
            assert [(sample.id, at) for sample, at in rest] == [
                (sample.id, at) for sample, at in whole[place + 1 : place + 21]
            ]


def test_malformed_records_before_a_resume_count() -> None:
    source = Numbered("a", (30,), bad=("a0.1", "a0.20"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beacon_lit.data.stream.reader.CHUNK", 5)
        samples = share(source, tolerance=Tolerance(max_bad=1)).samples(RecordPosition())
        position = [next(samples)[1] for _ in range(15)][-1]
        assert position.malformed == 1
        with pytest.raises(ValueError, match=r"a0.20: is bad; malformed record 2"):
            passes(share(source, tolerance=Tolerance(max_bad=1)), 1, position)
