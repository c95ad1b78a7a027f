from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.data.packing import pack

LENGTHS = np.random.default_rng(0).integers(257, 1025, size=300)


@given(st.lists(st.integers(1, 700), max_size=60), st.integers(700, 3000), st.integers(0, 9))
def test_pack_holds_every_sample_once_within_the_budget(lengths: list[int], budget: int, seed: int) -> None:
    lengths = np.array(lengths, int)
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
