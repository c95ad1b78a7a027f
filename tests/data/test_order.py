"""Orders of samples and batches: nothing lost, nothing repeated, every place found again."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.data import order as module
from beacon_lit.data.order import BatchOrder, Mixture
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
        mixture = Mixture(sizes, seed=seed)
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
        mixture = Mixture(sizes, weights, seed)
        samples = np.concatenate([mixture.block(number) for number in range(4 * mixture.blocks_in_epoch)])
    assert len(samples) == 4 * sum(sizes)
    ends = np.cumsum(sizes)
    for source, (end, size, weight) in enumerate(zip(ends, sizes, weights, strict=True)):
        own = samples[(samples >= end - size) & (samples < end)]
        assert abs(len(own) - len(samples) * weight / sum(weights)) <= 4, source
        for start in range(0, len(own) - size + 1, size):
            assert len(set(own[start : start + size])) == size, "a sample came again before all others had come"


def test_blocks_do_not_depend_on_those_before_them() -> None:
    assert np.array_equal(Mixture([9, 5], [1, 2], 3).block(2), Mixture([9, 5], [1, 2], 3).block(2))
    assert not np.array_equal(Mixture([50]).block(0), Mixture([50]).block(1))
    assert not np.array_equal(Mixture([50]).block(0), Mixture([50], seed=1).block(0))


@given(st.lists(st.integers(1, 64), min_size=8, max_size=80), st.integers(1, 8), st.integers(0, 3))
def test_ranks_share_an_epoch_without_loss_or_repetition(lengths: list[int], world_size: int, epoch: int) -> None:
    parts = [np.array(lengths)]
    orders = [BatchOrder(parts, 64, seed=1, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [order.epoch(epoch) for order in orders]
    seen = list(chain.from_iterable(chain.from_iterable(shares)))
    assert len(set(seen)) == len(seen) == len(lengths) - orders[0].dropped
    assert orders[0].dropped < world_size
    assert {len(share) for share in shares} == {len(orders[0])}


@pytest.mark.parametrize("weights", [None, [3.0, 1.0]])
@pytest.mark.parametrize("world_size", [1, 3])
def test_epochs_are_consecutive_parts_of_one_sequence(block: int, weights: list | None, world_size: int) -> None:
    lengths = [np.full(31, 7), np.arange(5, 20)]
    order = BatchOrder(lengths, 24, 0, world_size - 1, world_size, weights)
    epochs = [order.epoch(number) for number in range(5)]
    assert {len(epoch) for epoch in epochs} == {len(order)}
    fresh = BatchOrder(lengths, 24, 0, world_size - 1, world_size, weights)
    assert fresh.epoch(3) == epochs[3], "an epoch is the same whether or not those before it were asked for"
    if weights is None and world_size == 1:
        seen = Counter(chain.from_iterable(chain.from_iterable(epochs)))
        assert set(seen) == set(range(46)) and max(seen.values()) - min(seen.values()) <= 1
        if block >= 46:
            assert set(seen.values()) == {5}
    for batch in chain.from_iterable(epochs):
        assert sum(np.concatenate(lengths)[batch]) <= 24


def test_epochs_differ_in_order_and_neighbours_but_not_in_number() -> None:
    order = BatchOrder(LENGTHS, 4096, seed=3)
    epochs = [order.epoch(number) for number in range(3)]
    assert [len(epoch) for epoch in epochs] == [len(order)] * 3
    neighbours = [{frozenset(batch) for batch in epoch} for epoch in epochs]
    assert len(neighbours[0] & neighbours[1]) < len(order) / 4
    assert order.epoch(1) == BatchOrder(LENGTHS, 4096, seed=3).epoch(1) != BatchOrder(LENGTHS, 4096, seed=4).epoch(1)


def test_what_cannot_be_ordered_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_tokens=1023 must be at least .*1024"):
        BatchOrder([np.array([5, 1024])], 1023)
    with pytest.raises(ValueError, match="weight=0"):
        Mixture([3, 3], [1, 0])


def test_a_block_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[int] = []
    monkeypatch.setattr(module, "BLOCK", 10)
    monkeypatch.setattr(module, "pack", lambda lengths, *args: packed.append(len(lengths)) or pack(lengths, *args))
    order = BatchOrder([np.full(45, 7)], 24)
    assert [sample for _, batch in zip(range(3), order.batches(), strict=False) for sample in batch] and packed == [10]
    assert len(order) > 0 and order.dropped == 0 and len(order) == len(order)
    assert packed == [10, 10, 10, 10, 5], "their number is remembered, whatever else is asked for"
