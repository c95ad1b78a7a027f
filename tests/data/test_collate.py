import numpy as np
import torch

from beacon_lit.data.collate import collate
from beacon_lit.data.sample import Sample


def test_pads_on_the_right_and_labels_what_is_trained() -> None:
    rows = [
        Sample("a", np.array([5, 6, 7], np.int32), np.array([0, 1, 2.5], np.float32)),
        Sample("b", np.array([0], np.int32), np.array([1], np.float32)),
    ]
    batch = collate(rows, pad_id=0)
    assert batch.pop("index") == ["a", "b"]
    weights = batch.pop("weights")
    assert weights.dtype == torch.float32 and weights.tolist() == [[0, 1, 2.5], [1, 0, 0]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7], [0, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [[-100, 6, 7], [0, -100, -100]],
    }
