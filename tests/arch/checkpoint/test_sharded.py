"""Values of a parameter that ranks hold in parts are those of the whole parameter."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from beacon_lit.arch.checkpoint.sharded import samples
from tests.arch.tiny import examples

COUNT = 16


def part(whole: Tensor, rank: int, ranks: int) -> Tensor:
    """A parameter of ZeRO stage 3 as a rank has it: a part of equal size on every rank, the last ones padded."""
    numbers, each = whole.numel(), -(-whole.numel() // ranks)
    parameter = torch.empty(0)
    parameter.ds_id, parameter.ds_numel, parameter.ds_process_group = 0, numbers, rank
    padded = torch.cat([whole.flatten(), torch.full((each * ranks - numbers,), torch.nan)])
    parameter.ds_tensor = padded[rank * each : (rank + 1) * each]
    return parameter


@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=3), ranks=st.integers(1, 5))
@examples(100)
def test_what_ranks_hold_adds_up_to_what_a_whole_parameter_has(sizes: list[int], ranks: int) -> None:
    wholes = {str(size): torch.randn(size) for size in sizes}
    exchanged: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.distributed.get_rank", lambda rank: rank)
        patch.setattr("torch.distributed.all_reduce", lambda values, group: exchanged.append(values))
        found = [samples({name: part(whole, rank, ranks) for name, whole in wholes.items()}, COUNT)
                 for rank in range(ranks)]  # fmt: skip
    assert len(exchanged) == ranks, "all at once"
    for name, whole in wholes.items():
        expected = samples({name: whole}, COUNT)[name]
        assert min(len(whole), COUNT) <= len(expected) < max(2 * COUNT, 2)
        assert torch.equal(torch.stack([of_rank[name] for of_rank in found]).sum(0), expected)
