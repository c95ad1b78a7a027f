"""A stream has the same batches after a resume, and its memory does not grow."""

import gc
import json
from itertools import islice
from typing import Any

import pytest

from beacon_lit.data.records import Tolerance
from beacon_lit.data.sample import Sample
from beacon_lit.data.share import Share
from beacon_lit.data.stream.loader import StreamLoader
from tests.data.stream.numbered import Numbered, ids, mixture, passes, share


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
        for done in (1, 2, 16, 35, 5)[:: 1 + num_workers]:  # starting processes takes longest
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
def test_malformed_records_are_counted_in_each_pass_and_logged_once(num_workers: int, caplog, capfd) -> None:
    source = Numbered("a", (10, 10), bad=("a0.1", "a1.5"))
    found = passes(share(source, tolerance=Tolerance(max_bad=2)), 4)
    assert len(found) == 4
    assert sorted(record.message for record in caplog.records if "skipped" in record.message) == [
        "skipped: a0.1: is bad", "skipped: a1.5: is bad",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"is bad; malformed record 2 of a, max_bad=1"):
        passes(share(source, tolerance=Tolerance(max_bad=1)), 1)
    one_each = StreamLoader(mixture(source, tolerance=Tolerance(max_bad=1)), 0, num_workers)
    if num_workers:
        assert ids(one_each, 9), "each reader counts its own"
    with pytest.raises(ValueError, match=r"is bad \(strict=true\)"):
        ids(StreamLoader(mixture(source, tolerance=Tolerance(strict=True)), 0, num_workers), 9)


def test_a_source_without_a_fit_text_is_an_error_not_an_endless_search() -> None:
    with pytest.raises(ValueError, match=r"a: no text fits min_length=9, .* in the share of reader 4 of 4"):
        passes(share(Numbered("a", (3,)), 3, 4), 1)
    with pytest.raises(ValueError, match="no text fits"):
        ids(StreamLoader(mixture(Numbered("a", (0,))), 0), 1)


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
    def loader(source=None, num_workers=0, world_size=1, **settings) -> StreamLoader:
        source = source or Numbered("a", (9,))
        return StreamLoader(mixture(source, **settings), 0, num_workers, Share(0, world_size))

    state = loader().state_dict()
    loader().load_state_dict(state)
    with pytest.raises(ValueError, match=message):
        loader(**change).load_state_dict(state)
