"""Samples -> one padded batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from beacon_lit.data.sample import Sample

IGNORED = -100  # the label of tokens without loss
_NO_LOSS = Sample("", np.zeros(1, np.int32), np.zeros(1, np.float32))


def collate(samples: Sequence[Sample], pad_id: int) -> dict[str, Any]:
    """Pad samples on the right to the longest; without samples, return one token without loss.

    Returns:
        input_ids, attention_mask (0/1) and labels (-100 on padding and tokens without loss), each (B, L) int64;
        weights (B, L) float32, of the labels in the loss; index: list[str], the samples' ids.
    """
    samples = samples or [_NO_LOSS]
    shape = (len(samples), max(len(sample) for sample in samples))
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    weights = np.zeros(shape, dtype=np.float32)
    for row, sample in enumerate(samples):
        length = len(sample)
        input_ids[row, :length] = sample.input_ids
        labels[row, :length] = np.where(sample.weights > 0, sample.input_ids, IGNORED)
        attention_mask[row, :length] = 1
        weights[row, :length] = sample.weights
    tensors = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, "weights": weights}
    return {name: torch.from_numpy(array) for name, array in tensors.items()} | {"index": [s.id for s in samples]}
