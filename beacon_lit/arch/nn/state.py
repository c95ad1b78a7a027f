"""The keys and values that a layer keeps of the sequences that a batch has read."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class LayerState:
    """Keys and values of one layer, all rows end to end.

    Memory and open windows are the *fixed* entries: their keys are rotated to their slots. *Moving* entries will get
    another slot, so their keys are kept before RoPE. Where beacons are selected, a moving entry can become a beacon, so
    what the beacons' own maps make of its token is kept as well.

    Attributes:
        memory_k, memory_v: (M, K, H), memory. Caches that differ in their open windows alone, as forks do, share these
            two tensors.
        open_k, open_v: (T, K, H), open windows.
        moving_k, moving_v: (C, K, H), `[overlap | open window]` of each row. Open windows are among the moving entries
            where they close without a second reading: where beacons are inserted as tokens come, or selected. They are
            then fixed entries as well.
        own_k, own_v: (C, K, H), keys before RoPE and values that the beacons' own maps make of the moving entries'
            tokens, where beacons are selected; else (0, K, H).
    """

    memory_k: Tensor
    memory_v: Tensor
    open_k: Tensor
    open_v: Tensor
    moving_k: Tensor
    moving_v: Tensor
    own_k: Tensor
    own_v: Tensor

    def map(self, change: Callable[[str, Tensor], Tensor]) -> "LayerState":
        """Apply `change(name, tensor)` to every tensor."""
        return LayerState(**{name: change(name, tensor) for name, tensor in vars(self).items()})
