"""Where a request's entries are among vLLM's blocks, and which KV heads a rank has."""

from collections.abc import Sequence

import torch
from torch import Tensor


def slot_mapping(block_ids: Sequence[int], block_size: int, count: int) -> Tensor:
    """Return the places of a request's first `count` entries among the entries of all blocks, int64."""
    places = torch.tensor(block_ids, dtype=torch.int64)[:, None] * block_size + torch.arange(block_size)
    assert places.numel() >= count
    return places.flatten()[:count]


def own_heads(heads: int, rank: int, ranks: int) -> slice:
    """Return the KV heads of a rank of tensor parallelism; with more ranks than heads, ranks share a head."""
    each = max(1, heads // ranks)
    start = rank * heads // ranks
    return slice(start, start + each)
