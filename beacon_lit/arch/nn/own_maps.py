"""Own maps: linear maps that only beacons go through, which replace a backbone's projection or add to it.

The module `beacon_{name}_proj` stands beside the backbone's `{name}_proj`, or beside the fused layer that holds the
projection. What raw tokens compute for themselves never goes through it.
"""

from collections.abc import Iterable, Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beacon_lit.arch.config import MLP_PROJECTIONS, PROJECTIONS, OwnMap
from beacon_lit.arch.nn.fused import linear_layers, part


class BeaconLinear(nn.Linear):
    """An own map that replaces a projection. Its weights may be wider (float32 while trained) than hidden states."""

    replaces: ClassVar[bool] = True

    def forward(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """Project in the dtype of `x`: (..., in) -> (..., out). What the backbone makes of `x` is not used."""
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    def initialize(self, base: nn.Linear, rows: slice) -> None:
        """Copy the backbone's projection, which is some rows of a linear layer."""
        self.weight.copy_(base.weight[rows])
        if self.bias is not None:
            self.bias.copy_(base.bias[rows])


class BeaconLowRank(nn.Module):
    """An own map that adds a low-rank product to a projection: `base(x) + up(down(x))`; the product starts at zero.

    Attributes:
        down: weight (rank, in).
        up: weight (out, rank).
    """

    replaces: ClassVar[bool] = False

    def __init__(self, base: nn.Linear, rows: int, rank: int) -> None:
        super().__init__()
        device, dtype = base.weight.device, base.weight.dtype
        self.down = BeaconLinear(base.in_features, rank, False, device, dtype)
        self.up = BeaconLinear(rank, rows, False, device, dtype)

    def forward(self, x: Tensor, shared: Tensor) -> Tensor:
        """Add the product to what the backbone makes of `x`: (..., in) and (..., out) -> (..., out)."""
        return shared + self.up(self.down(x))

    def initialize(self, base: nn.Linear, rows: slice) -> None:
        """Draw `down`, the same on every rank, and set `up` to zero."""
        generator = torch.Generator().manual_seed(self.down.out_features)
        start = torch.randn(self.down.out_features, self.down.in_features, generator=generator)
        self.down.weight.copy_(start / self.down.in_features**0.5)
        self.up.weight.zero_()


Own = BeaconLinear | BeaconLowRank


def check_mlp(mlp: nn.Module, params: Sequence[str]) -> None:
    """Raise a ValueError unless an MLP has the projections that own maps of the MLP belong to.

    Args:
        mlp: an MLP, or a mixture of experts.
        params: names of own maps, for the message.
    """
    if any(part(mlp, name) is None for name in MLP_PROJECTIONS):
        raise ValueError(
            f"params={tuple(params)!r} is not allowed: the backbone's MLP is a {type(mlp).__name__}, without "
            f"projections gate, up and down of its own; allowed: maps of {', '.join(PROJECTIONS)}"
        )


def install(module: nn.Module, maps: Iterable[OwnMap]) -> None:
    """Add to a module the maps that belong to its projections."""
    for own in maps:
        found = part(module, own.name)
        if found is None:
            continue
        base, rows = found
        size = rows.stop - rows.start
        if own.rank is not None:
            added: Own = BeaconLowRank(base, size, own.rank)
        else:
            device, dtype = base.weight.device, base.weight.dtype
            added = BeaconLinear(base.in_features, size, base.bias is not None, device, dtype)
        module.add_module(f"beacon_{own.name}_proj", added)


@torch.no_grad()
def initialize(module: nn.Module, maps: Iterable[OwnMap]) -> None:
    """Initialize a module's own maps from its projections."""
    for own in maps:
        added, found = _own(module, own.name), part(module, own.name)
        if added is not None and found is not None:
            added.initialize(*found)


def project(module: nn.Module, names: Sequence[str], stream: Tensor, raw: int) -> list[Tensor]:
    """Project tokens in stream order: raw tokens by the backbone's projections, beacons by their own maps, if any.

    Args:
        module: an attention module or an MLP.
        names: names of projections with the same input, e.g. "qkv".
        stream: (P, in).
        raw: R, the number of raw tokens, which come first.

    Returns:
        (P, out) for each name.
    """
    found = []
    for base, sizes in linear_layers(module, names):
        owns = [_own(module, name) for name in sizes]
        # With no beacon in a training step the empty product keeps the parameters in the graph, with zero gradient.
        idle = raw == len(stream) and not torch.is_grad_enabled()
        replaced = all(own is not None and own.replaces for own in owns)
        shared = base(stream[:raw] if replaced else stream).split(list(sizes.values()), -1)
        for own, each in zip(owns, shared, strict=True):
            found.append(each if own is None or idle else torch.cat([each[:raw], own(stream[raw:], each[raw:])]))
    return found


def as_beacons(module: nn.Module, name: str, tokens: Tensor, shared: Tensor) -> Tensor:
    """Project tokens as beacons: (n, in) -> (n, out). The backbone's projection makes `shared` (n, out) of them."""
    own = _own(module, name)
    return shared if own is None else own(tokens, shared)


def _own(module: nn.Module, name: str) -> Own | None:
    return cast("Own | None", getattr(module, f"beacon_{name}_proj", None))
