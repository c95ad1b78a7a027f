"""Linear maps that beacon tokens have of their own, in place of a backbone's projection or on top of it.

A module `beacon_{name}_proj` beside the backbone's `{name}_proj`. Raw tokens never go through it.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beacon_lit.arch.config import OwnMap


class BeaconLinear(nn.Linear):
    """A projection in place of the backbone's. Its weights may be wider (float32 while trained) than hidden states."""

    def forward(self, x: Tensor, base: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(..., in) -> (..., out), in the dtype of `x`; the backbone's projection `base` plays no part."""
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    def initialize(self, base: nn.Linear) -> None:
        """Start from the backbone's projection."""
        self.load_state_dict(base.state_dict())


class BeaconLowRank(nn.Module):
    """A low-rank map on top of the backbone's projection: `base(x) + up(down(x))`, zero at the start.

    Attributes:
        down: (rank, in).
        up: (out, rank).
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        device, dtype = base.weight.device, base.weight.dtype
        self.down = BeaconLinear(base.in_features, rank, False, device, dtype)
        self.up = BeaconLinear(rank, base.out_features, False, device, dtype)

    def forward(self, x: Tensor, base: Callable[[Tensor], Tensor]) -> Tensor:
        """(..., in) -> (..., out)."""
        return base(x) + self.up(self.down(x))

    def initialize(self, base: nn.Linear) -> None:
        """Start at zero: a random `down`, the same on every rank, and `up` of zeros."""
        generator = torch.Generator().manual_seed(self.down.out_features)
        start = torch.randn(self.down.out_features, self.down.in_features, generator=generator)
        self.down.weight.copy_(start / self.down.in_features**0.5)
        self.up.weight.zero_()


def install(module: nn.Module, maps: Iterable[OwnMap]) -> None:
    """Add those of the maps that belong to projections of this module."""
    for own in maps:
        base = getattr(module, f"{own.name}_proj", None)
        if base is None:
            continue
        if own.rank is not None:
            module.add_module(f"beacon_{own.name}_proj", BeaconLowRank(base, own.rank))
            continue
        size = (base.in_features, base.out_features, base.bias is not None)
        module.add_module(f"beacon_{own.name}_proj", BeaconLinear(*size, base.weight.device, base.weight.dtype))


@torch.no_grad()
def initialize(module: nn.Module, maps: Iterable[OwnMap]) -> None:
    """Start them from the module's projections."""
    for own in maps:
        if hasattr(module, f"beacon_{own.name}_proj"):
            getattr(module, f"beacon_{own.name}_proj").initialize(getattr(module, f"{own.name}_proj"))


def project(module: nn.Module, name: str, stream: Tensor, raw: int) -> Tensor:
    """Project tokens in stream order, raw ones by the backbone's projection, beacons by their own if they have one.

    Args:
        module: an attention or an MLP.
        name: of the projection, "q".
        stream: (P, in), the first `raw` of them raw tokens.
        raw: R.

    Returns:
        (P, out).
    """
    base, own = getattr(module, f"{name}_proj"), getattr(module, f"beacon_{name}_proj", None)
    # With no beacon in a training step the empty product keeps the parameters in the graph, with zero gradient.
    if own is None or (raw == len(stream) and not torch.is_grad_enabled()):
        return base(stream)
    return torch.cat([base(stream[:raw]), own(stream[raw:], base)])
