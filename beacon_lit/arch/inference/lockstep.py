"""Keep ranks that share a spread model in step: every layer needs all ranks, so all must make the same passes.

Nothing here has an effect where each rank has a whole model.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from beacon_lit.arch.checkpoint.sharded import is_spread


def check_alike(model: nn.Module, name: str, *values: Any) -> None:
    """Raise a ValueError on every rank if ranks have different values; otherwise they would wait for ever.

    Args:
        model: the model that ranks may share.
        name: name of the values, for the message.
        values: tensors, and values with a `repr`.
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
    """Let all ranks draw the random numbers of rank 0 within this context. The other ranks' states are restored."""
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
