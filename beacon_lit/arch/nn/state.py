"""What a layer keeps of the sequences that a batch has read."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class LayerState:
    """Keys and values of one layer, all rows end to end.

    Attributes:
        memory_k, memory_v: (M, K, H); keys are rotated and never move again. Caches that differ in their open windows
            alone, as forks do, share these two.
        open_k, open_v: (T, K, H) open windows; keys are rotated.
        moving_k, moving_v: (C, K, H), for each row `[overlap | open window]`; keys are not rotated, they will get
            another slot. The open window is among them only where its beacons are inserted as tokens come.
    """

    memory_k: Tensor
    memory_v: Tensor
    open_k: Tensor
    open_v: Tensor
    moving_k: Tensor
    moving_v: Tensor

    def map(self, change: Callable[[str, Tensor], Tensor]) -> "LayerState":
        """The same with every tensor put through `change(name, tensor)`."""
        return LayerState(**{name: change(name, tensor) for name, tensor in vars(self).items()})
