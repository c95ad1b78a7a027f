"""Own maps: linear maps that only beacons go through, which replace a backbone's projection or add to it.

The module `beacon_{name}_proj` stands beside the backbone's `{name}_proj`. What raw tokens compute for themselves never
goes through it.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beacon_lit.arch.config import OwnMap


class BeaconLinear(nn.Linear):
    """An own map that replaces a projection. Its weights may be wider (float32 while trained) than hidden states."""

    def forward(self, x: Tensor, base: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Project in the dtype of `x`: (..., in) -> (..., out). The backbone's projection `base` is not used."""
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    def initialize(self, base: nn.Linear) -> None:
        """Copy the backbone's projection."""
        self.load_state_dict(base.state_dict())


class BeaconLowRank(nn.Module):
    """An own map that adds a low-rank product to a projection: `base(x) + up(down(x))`; the product starts at zero.

    Attributes:
        down: weight (rank, in).
        up: weight (out, rank).
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        device, dtype = base.weight.device, base.weight.dtype
        self.down = BeaconLinear(base.in_features, rank, False, device, dtype)
        self.up = BeaconLinear(rank, base.out_features, False, device, dtype)

    def forward(self, x: Tensor, base: Callable[[Tensor], Tensor]) -> Tensor:
        """Project: (..., in) -> (..., out)."""
        return base(x) + self.up(self.down(x))

    def initialize(self, base: nn.Linear) -> None:
        """Draw `down`, the same on every rank, and set `up` to zero."""
        generator = torch.Generator().manual_seed(self.down.out_features)
        start = torch.randn(self.down.out_features, self.down.in_features, generator=generator)
        self.down.weight.copy_(start / self.down.in_features**0.5)
        self.up.weight.zero_()


def install(module: nn.Module, maps: Iterable[OwnMap]) -> None:
    """Add to a module the maps that belong to its projections."""
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
    """Initialize a module's own maps from its projections."""
    for own in maps:
        if hasattr(module, f"beacon_{own.name}_proj"):
            getattr(module, f"beacon_{own.name}_proj").initialize(getattr(module, f"{own.name}_proj"))


def project(module: nn.Module, name: str, stream: Tensor, raw: int) -> Tensor:
    """Project tokens in stream order: raw tokens by the backbone's projection, beacons by their own map, if any.

    Args:
        module: an attention module or an MLP.
        name: name of the projection, e.g. "q".
        stream: (P, in).
        raw: R, the number of raw tokens, which come first.

    Returns:
        (P, out).
    """
    base, own = getattr(module, f"{name}_proj"), getattr(module, f"beacon_{name}_proj", None)
    # With no beacon in a training step the empty product keeps the parameters in the graph, with zero gradient.
    if own is None or (raw == len(stream) and not torch.is_grad_enabled()):
        return base(stream)
    return torch.cat([base(stream[:raw]), own(stream[raw:], base)])


def project_beacons(module: nn.Module, name: str, beacons: Tensor) -> Tensor:
    """Project tokens as beacons: by their own map, if any, else by the backbone's projection; (n, in) -> (n, out)."""
    base, own = getattr(module, f"{name}_proj"), getattr(module, f"beacon_{name}_proj", None)
    return base(beacons) if own is None else own(beacons, base)
