"""Reduce values over ranks."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.distributed import ReduceOp
from torch.distributed.tensor import DTensor

_OPERATIONS = {"sum": ReduceOp.SUM, "max": ReduceOp.MAX}


def over_ranks(value: Tensor, operation: str = "sum") -> Tensor:
    """Return the "sum" or the "max" of a value over ranks, or the value itself in a single process.

    Every rank must call this function. Unlike Lightning's `strategy.reduce`, there is no barrier, which would make the
    host wait for the GPU.
    """
    if not torch.distributed.is_initialized():
        return value
    value = value.detach().clone()
    torch.distributed.all_reduce(value, _OPERATIONS[operation])
    return value


def to_host(value: Tensor) -> Callable[[], Tensor]:
    """Start to copy a value to the CPU; return a function that waits for the copy alone, not for later GPU work."""
    copy = value.to("cpu", non_blocking=True)
    copied = torch.cuda.current_stream(value.device).record_event() if value.is_cuda else None

    def wait() -> Tensor:
        if copied is not None:
            copied.synchronize()
        return copy

    return wait


def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Return the norm of all gradients together; if gradients are spread over ranks, every rank must call this."""
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
