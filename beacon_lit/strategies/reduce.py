"""One number of all ranks."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.distributed import ReduceOp
from torch.distributed.tensor import DTensor

_OPERATIONS = {"sum": ReduceOp.SUM, "max": ReduceOp.MAX}


def over_ranks(value: Tensor, operation: str = "sum") -> Tensor:
    """The sum or the "max" of what each rank gives; without other ranks the value itself. Every rank must call it.

    Unlike Lightning's `strategy.reduce` it puts no barrier before it, which would hold the host until the GPU is done.
    """
    if not torch.distributed.is_initialized():
        return value
    value = value.detach().clone()
    torch.distributed.all_reduce(value, _OPERATIONS[operation])
    return value


def to_host(value: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a value to the CPU. What is returned waits for that, and not for what the GPU was given since."""
    copy = value.to("cpu", non_blocking=True)
    there = torch.cuda.current_stream(value.device).record_event() if value.is_cuda else None

    def wait() -> Tensor:
        if there is not None:
            there.synchronize()
        return copy

    return wait


def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients together; where they are spread over ranks every rank must call it."""
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
