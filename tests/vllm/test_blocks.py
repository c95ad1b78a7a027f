"""Entries of a cache find their places in vLLM's blocks, and KV heads their ranks."""

import pytest
import torch

from beacon_lit.vllm.blocks import own_heads, slot_mapping


def test_entries_are_in_the_order_of_the_blocks() -> None:
    assert slot_mapping([7, 2, 5], 4, 10).tolist() == [28, 29, 30, 31, 8, 9, 10, 11, 20, 21]
    assert slot_mapping([3], 4, 4).tolist() == [12, 13, 14, 15]
    blocks = torch.zeros(8, 4)  # (blocks, block size)
    blocks.view(-1)[slot_mapping([7, 2, 5], 4, 10)] = torch.arange(10.0) + 1
    assert blocks[[7, 2, 5]].flatten().tolist() == [*range(1, 11), 0, 0]


@pytest.mark.parametrize("heads, ranks", [(8, 1), (8, 2), (8, 8), (2, 4), (2, 8), (1, 2)])
def test_every_rank_takes_its_own_heads(heads: int, ranks: int) -> None:
    found = [list(range(heads))[own_heads(heads, rank, ranks)] for rank in range(ranks)]
    copies = max(1, ranks // heads)  # ranks that share a head stand side by side
    assert [head for part in found[::copies] for head in part] == list(range(heads))
    assert all(part == found[rank // copies * copies] for rank, part in enumerate(found))
