from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.data.packing import BatchOrder, pack, split_to_multiple

LENGTHS = np.random.default_rng(0).integers(257, 1025, size=300).tolist()


@given(st.lists(st.integers(1, 700), max_size=60), st.integers(700, 3000), st.integers(0, 9))
def test_pack_holds_every_sample_once_within_the_budget(lengths: list[int], budget: int, seed: int) -> None:
    batches = pack(lengths, budget, np.random.default_rng(seed))
    assert sorted(chain.from_iterable(batches)) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in batch) <= budget for batch in batches)
    assert len(batches) == len(pack(lengths, budget, np.random.default_rng(seed + 1)))


def test_pack_fills_the_budget() -> None:
    for budget in (1024, 8192, 65_536):
        batches = pack(LENGTHS, budget, np.random.default_rng(0))
        in_sequence, room = 1, budget
        for length in LENGTHS:
            in_sequence, room = (in_sequence, room - length) if length <= room else (in_sequence + 1, budget - length)
        assert len(batches) <= in_sequence
        assert len(batches) <= sum(LENGTHS) / budget + 1 or budget < 2 * max(LENGTHS)


@given(st.lists(st.integers(1, 64), min_size=8, max_size=80), st.integers(1, 8), st.integers(0, 3))
def test_ranks_share_an_epoch_without_loss_or_repetition(lengths: list[int], world_size: int, epoch: int) -> None:
    orders = [BatchOrder(lengths, 64, seed=1, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [order.epoch(epoch) for order in orders]
    seen = list(chain.from_iterable(chain.from_iterable(shares)))
    assert len(set(seen)) == len(seen) == len(lengths) - orders[0].dropped
    assert orders[0].dropped < world_size
    assert {len(share) for share in shares} == {len(orders[0])}


def test_epochs_differ_in_order_and_neighbours_but_not_in_number() -> None:
    order = BatchOrder(LENGTHS, 4096, seed=3)
    epochs = [order.epoch(number) for number in range(3)]
    assert [len(epoch) for epoch in epochs] == [len(order)] * 3
    neighbours = [{frozenset(batch) for batch in epoch} for epoch in epochs]
    assert len(neighbours[0] & neighbours[1]) < len(order) / 4
    assert order.epoch(1) == BatchOrder(LENGTHS, 4096, seed=3).epoch(1) != BatchOrder(LENGTHS, 4096, seed=4).epoch(1)


def test_split_to_multiple_halves_the_fullest_and_stops_at_single_samples() -> None:
    assert split_to_multiple([[0, 1, 2, 3], [4]], 3) == [[0, 2], [4], [1, 3]]
    assert split_to_multiple([[0], [1]], 3) == [[0], [1]]


def test_a_sample_longer_than_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_tokens=1023 must be at least .*1024"):
        BatchOrder([5, 1024], 1023)
