"""Readers lose and repeat nothing in a pass, and continue at every position."""

import json
from collections.abc import Iterator
from itertools import chain, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.data.records import BLANK, MalformedRecord, SourceRecord, Tolerance
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


def test_a_crawl_with_blank_and_malformed_records_is_read_to_its_end() -> None:
    sizes = (15_000,)
    own = share(Numbered("a", sizes, bad=tuple(f"a0.{i}" for i in range(50, 15_000, 101))))
    with_blank = share(Blank("a", sizes))
    for reader, kind, count in ((own, "bad", 149), (with_blank, BLANK, 150)):
        assert passes(reader, 1)[0][-1].startswith("a0.14999")
        assert reader.left_out[kind] >= count, "those of the next pass count as well"
    with pytest.raises(ValueError, match=r"a0.10150: is bad; malformed record 101 of a, max_bad=100 allows 100 of the"):
        passes(share(own.source, tolerance=Tolerance(max_bad=100)), 1)


class Blank(Numbered):
    def partition(self, number: int) -> Iterator[SourceRecord]:
        for place, record in enumerate(super().partition(number)):
            yield MalformedRecord(BLANK, str(place), "is blank") if place % 100 == 50 else record


def test_records_read_before_a_resume_count() -> None:
    source = Numbered("a", (15_000,), bad=tuple(f"a0.{i}" for i in (*range(0, 200, 2), 14_000)))
    samples = share(source).samples(RecordPosition())
    position = next(at for _, at in samples if at.record > 13_000)
    assert position.read == position.record and position.malformed == 100
    assert passes(share(source), 1, position)
    with pytest.raises(ValueError, match=r"malformed record 101 of a, max_bad=0\.01"):
        passes(share(source), 1, position._replace(read=0))


def test_malformed_records_before_a_resume_count() -> None:
    source = Numbered("a", (30,), bad=("a0.1", "a0.20"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beacon_lit.data.stream.reader.CHUNK", 5)
        samples = share(source, tolerance=Tolerance(max_bad=1)).samples(RecordPosition())
        position = [next(samples)[1] for _ in range(15)][-1]
        assert position.malformed == 1
        with pytest.raises(ValueError, match=r"a0.20: is bad; malformed record 2"):
            passes(share(source, tolerance=Tolerance(max_bad=1)), 1, position)
