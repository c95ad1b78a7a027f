"""Ranks over which a model is spread make the same passes: each needs all of them for every layer.

Nothing here does anything where each rank has a whole model.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from beacon_lit.arch.checkpoint.sharded import is_spread


def check_alike(model: nn.Module, name: str, *values: Any) -> None:
    """ValueError on every rank, rather than ranks that wait for ever, if they were given different values.

    Args:
        model: what the ranks may share.
        name: of the values, for the message.
        values: tensors, and what has a `repr`.
    """
    if not is_spread(model):
        return
    plain = [value.tolist() if isinstance(value, Tensor) else value for value in values]
    found = [""] * distributed.get_world_size()
    distributed.all_gather_object(found, hashlib.sha256(repr(plain).encode()).hexdigest())
    for rank, digest in enumerate(found):
        if digest != found[0]:
            raise ValueError(
                f"{name} of rank {rank} differs from that of rank 0, with which it shares the model; "
                f"allowed: the same on every rank"
            )


@contextmanager
def drawing_alike(model: nn.Module) -> Iterator[None]:
    """Within it ranks draw the random numbers of rank zero. Afterwards those of the others are as they were."""
    if not is_spread(model):
        yield
        return
    device = next(model.parameters()).device
    on_cpu = device.type == "cpu"
    own: Any = torch if on_cpu else torch.get_device_module(device)
    others = distributed.get_rank() > 0
    with torch.random.fork_rng([] if on_cpu else [device], enabled=others, device_type=device.type):
        state = own.get_rng_state().to(device)
        distributed.broadcast(state, 0)
        own.set_rng_state(state.cpu())
        yield
