"""A batch with padding and with tokens that have no label."""

import torch
from torch import Tensor

from tests.arch.tiny import tokens


def batch() -> dict[str, Tensor]:
    """Two rows of 30 and 20 tokens; the first 12 of the first row are not scored."""
    ids = tokens(2, 30)
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, :12] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
