"""Orders of samples and batches: nothing lost, nothing repeated, every place found again."""

from collections import Counter
from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.data import order as module
from beacon_lit.data.order import BatchOrder, SampleOrder
from beacon_lit.data.packing import pack

LENGTHS = [np.random.default_rng(0).integers(257, 1025, size=300)]
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)


@pytest.fixture(params=[5, 16, 65_536])
def block(request, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "BLOCK", request.param)
    return request.param


@given(sizes=SIZES, seed=st.integers(0, 3), block=st.sampled_from([1, 7, 1000]))
def test_without_weights_every_epoch_has_all_samples_once(sizes: list[int], seed: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        mixture = SampleOrder(sizes, seed=seed)
        for epoch in range(3):
            numbers = range(epoch * mixture.blocks_in_epoch, (epoch + 1) * mixture.blocks_in_epoch)
            samples = np.concatenate([mixture.block(number) for number in numbers])
            assert sorted(samples) == list(range(sum(sizes)))


@given(sizes=SIZES, seed=st.integers(0, 3), block=st.sampled_from([1, 7, 50]), data=st.data())
def test_weights_decide_how_fast_each_source_goes_round(
    sizes: list[int], seed: int, block: int, data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 5), min_size=len(sizes), max_size=len(sizes)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        mixture = SampleOrder(sizes, weights, seed)
        samples = np.concatenate([mixture.block(number) for number in range(4 * mixture.blocks_in_epoch)])
    assert len(samples) == 4 * sum(sizes)
    ends = np.cumsum(sizes)
    for source, (end, size, weight) in enumerate(zip(ends, sizes, weights, strict=True)):
        own = samples[(samples >= end - size) & (samples < end)]
        assert abs(len(own) - len(samples) * weight / sum(weights)) <= 4, source
        for start in range(0, len(own) - size + 1, size):
            assert len(set(own[start : start + size])) == size, "a sample came again before all others had come"


def test_blocks_do_not_depend_on_those_before_them() -> None:
    assert np.array_equal(SampleOrder([9, 5], [1, 2], 3).block(2), SampleOrder([9, 5], [1, 2], 3).block(2))
    assert not np.array_equal(SampleOrder([50]).block(0), SampleOrder([50]).block(1))
    assert not np.array_equal(SampleOrder([50]).block(0), SampleOrder([50], seed=1).block(0))


def first(order: BatchOrder, count: int, start: int = 0) -> list[list[int]]:
    return list(islice(order.batches(start), count))


@pytest.mark.parametrize("weights", [None, [3.0, 1.0]])
def test_batches_are_one_sequence_of_all_samples(block: int, weights: list | None) -> None:
    lengths = [np.full(31, 7), np.arange(5, 20)]
    order = BatchOrder(lengths, 24, 0, weights)
    batches = first(order, 5 * len(order))
    for start in (0, 1, len(order) - 1, len(order), 3 * len(order) + 1):
        assert first(BatchOrder(lengths, 24, 0, weights), 4, start) == batches[start : start + 4]
    if weights is None:
        seen = Counter(chain.from_iterable(batches))
        assert set(seen) == set(range(46)) and max(seen.values()) - min(seen.values()) <= 1
        if block >= 46:
            assert set(seen.values()) == {5}
    for batch in batches:
        assert sum(np.concatenate(lengths)[batch]) <= 24
    assert not first(BatchOrder([np.array([], np.int32)], 24), 1)


def test_epochs_differ_in_order_and_neighbours_but_not_in_number() -> None:
    order = BatchOrder(LENGTHS, 4096, seed=3)
    epochs = [first(order, len(order), number * len(order)) for number in range(3)]
    for epoch in epochs:
        assert sorted(chain.from_iterable(epoch)) == list(range(300))
    neighbours = [{frozenset(batch) for batch in epoch} for epoch in epochs]
    assert len(neighbours[0] & neighbours[1]) < len(order) / 4
    same, other = (first(BatchOrder(LENGTHS, 4096, seed=seed), len(order), len(order)) for seed in (3, 4))
    assert epochs[1] == same != other


def test_what_cannot_be_ordered_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_tokens=1023 must be at least .*1024"):
        BatchOrder([np.array([5, 1024])], 1023)
    with pytest.raises(ValueError, match="weight=0"):
        SampleOrder([3, 3], [1, 0])


def test_a_block_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[int] = []
    monkeypatch.setattr(module, "BLOCK", 10)
    monkeypatch.setattr(module, "pack", lambda lengths, *args: packed.append(len(lengths)) or pack(lengths, *args))
    order = BatchOrder([np.full(45, 7)], 24)
    assert [sample for _, batch in zip(range(3), order.batches(), strict=False) for sample in batch] and packed == [10]
    assert len(order) > 0 and len(order) == len(order)
    assert packed == [10, 10, 10, 10, 5], "their number is remembered, whatever else is asked for"
