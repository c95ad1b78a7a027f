"""Samples -> one padded batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from beacon_lit.data.sample import Sample

IGNORED = -100  # the label that losses skip


def collate(samples: Sequence[Sample], pad_id: int) -> dict[str, Any]:
    """Rows of a batch, padded on the right to the longest.

    Returns input_ids, attention_mask (0/1) and labels (-100 on padding and where there is no loss), each (B, L) int64,
    and index: list[str], the samples' ids.
    """
    shape = (len(samples), max(len(sample) for sample in samples))
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    for row, sample in enumerate(samples):
        length = len(sample)
        input_ids[row, :length] = sample.input_ids
        labels[row, :length] = np.where(sample.trained, sample.input_ids, IGNORED)
        attention_mask[row, :length] = 1
    tensors = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in tensors.items()} | {"index": [s.id for s in samples]}
