"""What the training module makes of a batch."""

import torch
from torch.distributed.utils import _to_kwargs

from tests.callbacks.models import batch, beacon_module


def test_weights_move_to_the_device_and_nothing_else_does_not_even_under_ddp() -> None:
    device, given = torch.device("meta"), {**batch(0), "step_weight": torch.tensor(3.0)}
    moved = beacon_module().transfer_batch_to_device(given, device, 0)
    ((under_ddp, number),), _ = _to_kwargs((moved, 0), {}, device, False)  # as DDP passes its arguments on
    assert under_ddp is moved and number == 0 and set(moved) == set(given)
    assert {name for name, value in moved.items() if name != "index" and value.is_meta} == {"weights", "step_weight"}
    assert not given["weights"].is_meta  # a new batch
    ((control, _),), _ = _to_kwargs((dict(moved), 0), {}, device, False)
    assert control["input_ids"].is_meta
