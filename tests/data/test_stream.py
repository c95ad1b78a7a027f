"""Streams: nothing lost, nothing repeated in a pass, the same batches after a resume, and memory that does not grow."""

import gc
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.data.loader import Share
from beacon_lit.data.records import BadRecord, Record, Shard, Tolerance
from beacon_lit.data.sample import LengthRule, Sample
from beacon_lit.data.stream.blocks import Mixture
from beacon_lit.data.stream.loader import StreamLoader
from beacon_lit.data.stream.reader import Position, SourceReader
from beacon_lit.tiny import byte_tokenizer

TOKENIZER = byte_tokenizer()
RULE = LengthRule(min_length=9, max_length=48, window=8, seed=3)


@dataclass(frozen=True)
class Numbered:
    """Shards of so many texts of 20 to 100 bytes, so that some are split; those of `bad` are no documents."""

    name: str
    sizes: tuple[int, ...]
    bad: tuple[str, ...] = ()
    weight: float | None = None
    answer_share: float | None = None
    limit: int | None = None

    def key(self) -> Any:
        return self.name

    def documents(self, tokenizer: Any) -> Iterator[Record]:
        return chain.from_iterable(shard() for shard in self.shards(tokenizer))

    def shards(self, tokenizer: Any) -> list[Shard]:
        return [partial(self.shard, number) for number in range(len(self.sizes))]

    def shard(self, number: int) -> Iterator[Record]:
        for i in range(self.sizes[number]):
            name = f"{self.name}{number}.{i}"
            if name in self.bad:
                yield BadRecord("bad", name, "is bad")
            else:
                yield {"id": name, "text": "x" * (20 + i * 37 % 81)}


def share(source: Numbered, reader: int = 0, readers: int = 1, **settings) -> SourceReader:
    settings = {"tolerance": Tolerance(), **settings}
    return SourceReader(source, source.shards(TOKENIZER), TOKENIZER, RULE, reader=reader, readers=readers, **settings)


def passes(share: SourceReader, count: int, start: Position = Position()) -> list[list[str]]:  # noqa: B008
    """The ids of the samples of whole passes, from a position on."""
    found: list[list[str]] = [[] for _ in range(count)]
    for sample, position in share.samples(start):
        if position.epoch - start.epoch == count:
            return found
        found[position.epoch - start.epoch].append(sample.id)
    raise AssertionError("a stream has an end")


def mixture(*sources: Numbered, size: int = 10, **settings) -> Mixture:
    weights = [source.weight for source in sources] if len(sources) > 1 else None
    settings = {"tolerance": Tolerance(), "max_tokens": 100, **settings}
    return Mixture(sources, weights, TOKENIZER, RULE, size=size, **settings)


def ids(loader: StreamLoader, count: int) -> list[list[str]]:
    return [batch["index"] for batch in islice(loader, count)]


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
        whole = list(islice(share(source, reader, 2).samples(Position()), 60))
        for place in range(0, 40, 3):
            position = Position(*json.loads(json.dumps(whole[place][1])))
            rest = list(islice(share(source, reader, 2).samples(position), 20))
            assert [(sample.id, at) for sample, at in rest] == [
                (sample.id, at) for sample, at in whole[place + 1 : place + 21]
            ]


def test_weights_are_shares_of_the_samples() -> None:
    weights = {"a": 3.0, "b": 1.0, "c": 2.0}
    some = mixture(*(Numbered(name, (size, 9), weight=weights[name]) for name, size in (("a", 80), ("b", 5), ("c", 9))))
    seen = Counter[str]()
    for _, block in islice(some.blocks(0, 1, some.start), 12):
        seen.update(sample.id[0] for sample in block.samples)
        assert all(abs(seen[name] - seen.total() * weight / 6) < 3 for name, weight in weights.items())


def test_a_block_is_packed_and_shuffled_and_none_of_it_is_lost() -> None:
    some = mixture(Numbered("a", (50,)), size=30)
    drawn = [sample.id for sample, _ in islice(share(Numbered("a", (50,))).samples(Position()), 60)]
    for number, (_, block) in enumerate(islice(some.blocks(0, 1, some.start), 2)):
        batches = [[block.samples[i] for i in batch] for batch in block.batches]
        assert all(sum(map(len, batch)) <= 100 for batch in batches) and len(batches) < 25
        trained = [sample.id for batch in batches for sample in batch]
        assert sorted(trained) == sorted(drawn[30 * number : 30 * number + 30]) and trained != sorted(trained)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("sizes", [(30,), (7, 9, 4, 6, 5)])
def test_a_resumed_loader_goes_on_with_the_same_batches(num_workers: int, sizes: tuple[int, ...]) -> None:
    sources = Numbered("a", sizes, weight=2.0), Numbered("b", (11, 12), weight=1.0)

    def loader() -> StreamLoader:
        return StreamLoader(mixture(*sources), 0, num_workers, Share(1, 2))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beacon_lit.data.stream.loader._of_all_ranks", lambda own: [None, own])
        whole = ids(loader(), 60)
        assert len(set(map(tuple, whole))) > 40
        for done in (1, 2, 5, 16, 35):
            before = loader()
            assert ids(before, done) == whole[:done], "workers that run ahead do not show"
            state = json.loads(json.dumps(before.state_dict()))
            assert state["position"] == done
            rest = loader()
            rest.load_state_dict(state)
            assert ids(rest, 8) == whole[done : done + 8]
            rest = loader()
            rest.load_state_dict(state)
            batches = iter(rest)
            for _ in range(3):
                next(batches)
            again = loader()
            again.load_state_dict(rest.state_dict())
            assert ids(again, 5) == whole[done + 3 : done + 8], "a run may be resumed twice"


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_batches_that_were_not_trained_on_come_again(num_workers: int, accumulate: int) -> None:
    trained = 0
    source, share = Numbered("a", (30, 30)), Share(accumulate=accumulate)
    loader = StreamLoader(mixture(source), 0, num_workers, share, lambda: trained)
    whole = ids(StreamLoader(mixture(source), 0, num_workers), 30)
    batches = iter(loader)
    first = [next(batches)["index"] for _ in range(9)]
    trained = 7
    position = 7 // accumulate * accumulate
    assert first == whole[:9] and loader.state_dict()["position"] == position, "of whole optimizer steps"
    rest = StreamLoader(mixture(source), 0, num_workers, share, lambda: trained)
    rest.load_state_dict(loader.state_dict())
    assert ids(rest, 18) == whole[position : position + 18]
    assert ids(loader, 18) == whole[position : position + 18], "nor does a new epoch lose what was fetched ahead"
    trained = 13
    rest.load_state_dict(loader.state_dict())
    assert ids(rest, 6) == whole[position + 6 : position + 12]
    weights = [(batch["step_weight"], batch["weights"][:, 1:].sum()) for batch in islice(rest, 9)]
    assert [float(step) for step, _ in weights] == [
        float(sum(own for _, own in weights[i // accumulate * accumulate :][:accumulate])) for i in range(9)
    ]


def test_ranks_and_workers_have_no_record_in_common() -> None:
    source = Numbered("a", (12, 12, 12, 12))
    seen = [
        {name for batch in ids(StreamLoader(mixture(source, size=4), 0, 2, Share(rank, 2)), 6) for name in batch}
        for rank in (0, 1)
    ]
    shards = [{name.split(".")[0] for name in own} for own in seen]
    assert all(len(own) == 2 for own in shards) and not shards[0] & shards[1]


def test_memory_is_bounded_by_blocks() -> None:
    loader = StreamLoader(mixture(Numbered("a", (100_000,)), size=50), 0)
    counts = []
    for number, batch in enumerate(loader):
        assert len(batch["index"])
        if number % 100 == 99:
            gc.collect()
            counts.append(sum(isinstance(thing, Sample) for thing in gc.get_objects()))
        if number == 599:
            break
    # Two blocks, one that is being made, and the samples of a chunk of 256 documents.
    assert max(counts) <= 3 * 50 + 3 * 256, counts
    assert len(loader._fetched) <= 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_records_are_counted_in_each_pass_and_logged_once(num_workers: int, caplog, capfd) -> None:
    source = Numbered("a", (10, 10), bad=("a0.1", "a1.5"))
    found = passes(share(source, tolerance=Tolerance(max_bad=2)), 4)
    assert len(found) == 4
    assert sorted(record.message for record in caplog.records if "skipped" in record.message) == [
        "skipped: a0.1: is bad", "skipped: a1.5: is bad",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"is bad; that is bad record 2 of a, max_bad=1"):
        passes(share(source, tolerance=Tolerance(max_bad=1)), 1)
    one_each = StreamLoader(mixture(source, tolerance=Tolerance(max_bad=1)), 0, num_workers)
    if num_workers:
        assert ids(one_each, 9), "each reader counts its own"
    with pytest.raises(ValueError, match=r"is bad \(strict=true\)"):
        ids(StreamLoader(mixture(source, tolerance=Tolerance(strict=True)), 0, num_workers), 9)


def test_bad_records_before_a_resume_count() -> None:
    source = Numbered("a", (30,), bad=("a0.1", "a0.20"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beacon_lit.data.stream.reader.CHUNK", 5)
        samples = share(source, tolerance=Tolerance(max_bad=1)).samples(Position())
        position = [next(samples)[1] for _ in range(15)][-1]
        assert position.bad == 1
        with pytest.raises(ValueError, match=r"a0.20: is bad; that is bad record 2"):
            passes(share(source, tolerance=Tolerance(max_bad=1)), 1, position)


def test_a_source_without_a_fit_text_is_an_error_not_an_endless_search() -> None:
    with pytest.raises(ValueError, match=r"a: no text fits min_length=9, .* in the share of reader 4 of 4"):
        passes(share(Numbered("a", (3,)), 3, 4), 1)
    with pytest.raises(ValueError, match="no text fits"):
        ids(StreamLoader(mixture(Numbered("a", (0,))), 0), 1)


@pytest.mark.parametrize(
    ("sources", "settings", "message"),
    [
        ([Numbered("a", (3,)), Numbered("b", (3,))], {}, "weight=null of 'a' must be a number"),
        ([Numbered("a", (3,), limit=5)], {}, "limit=5 of 'a' must be null in a stream"),
        ([Numbered("a", (3,))], {"size": 0}, "stream=0 must be an integer, at least 1"),
        ([Numbered("a", (3,))], {"size": True}, "stream=True must be an integer"),
    ],
)
def test_what_cannot_be_streamed(sources: list[Numbered], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(sources, None, TOKENIZER, RULE, Tolerance(), **{"size": 5, "max_tokens": 100, **settings})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 11}, "stream=11 differs from the run that is resumed, which had stream=10"),
        ({"max_tokens": 120}, "max_tokens=120"),
        ({"num_workers": 2}, "num_workers=2 differs .* num_workers=1"),
        ({"world_size": 2}, "world_size=2"),
        ({"source": Numbered("a", (9, 9))}, r"shards=\[2\] differs"),
        ({"source": Numbered("b", (9,))}, r"sources=\['b'\] differs"),
    ],
)
def test_a_position_in_another_stream_is_refused(change: dict[str, Any], message: str) -> None:
    def loader(source=Numbered("a", (9,)), num_workers=0, world_size=1, **settings) -> StreamLoader:
        return StreamLoader(mixture(source, **settings), 0, num_workers, Share(0, world_size))

    state = loader().state_dict()
    loader().load_state_dict(state)
    with pytest.raises(ValueError, match=message):
        loader(**change).load_state_dict(state)


def test_statistics_of_a_block() -> None:
    some = mixture(Numbered("a", (40,), weight=3.0), Numbered("b", (5,), bad=("b0.0",), weight=1.0), size=20)
    _, block = next(some.blocks(0, 1, some.start, log_bad=False))
    a, b, everything = block.statistics(["a", "b"])
    assert (a.source, a.samples, b.samples, everything.samples) == ("a (first 20 samples of the stream)", 15, 5, 20)
    assert b.left_out["bad"] >= 1 and everything.tokens == sum(len(sample) for sample in block.samples)
    assert np.isclose(a.share + b.share, 1)
