"""Tell packed weights from plain ones: torchao's weights are tensors that look plain and hold other tensors."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor


def is_packed(tensor: Tensor) -> bool:
    """Whether a tensor's values are computed from other tensors inside it, such as integers and scales.

    A parameter that is spread over ranks is not packed, though it holds this rank's part as a tensor of its own.
    """
    return hasattr(tensor, "__tensor_flatten__") and not isinstance(tensor, DTensor)


def stored(tensor: Any) -> Iterator[Tensor]:
    """Yield the tensors that hold a tensor's values in memory: those inside a packed tensor, else the tensor itself."""
    if is_packed(tensor):
        for name in tensor.__tensor_flatten__()[0]:
            yield from stored(getattr(tensor, name))
    else:
        yield tensor
