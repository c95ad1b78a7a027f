"""Attend in layers whose heads keep different things: a step for each group of heads, or for each layer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from beacon_lit.arch.nn.attention import BeaconAttention, Own, Step


def layer_steps(steps: Sequence[Step], members: Sequence[tuple[tuple[int, ...], ...]]) -> tuple[Step, ...]:
    """Return the step of each layer, where a group's step is the same in all layers.

    Args:
        steps: the pass as each group of heads sees it.
        members: for each group, for each layer, the KV heads of the group.
    """
    return tuple(layer_step(zip(steps, heads, strict=True)) for heads in zip(*members, strict=True))


def layer_step(groups: Iterable[tuple[Step, tuple[int, ...]]]) -> Step:
    """Return the step of one layer, given each group's step and its KV heads in this layer, which may be none."""
    present = tuple((step, heads) for step, heads in groups if heads)
    step = present[0][0]
    return step if len(present) == 1 else GroupedStep(present, step.raw, step.selects)


@dataclass(eq=False)  # not frozen: torch.compile depends on every field of a frozen dataclass
class GroupedStep:
    """A layer's part of a pass in which groups of KV heads have memory of different lengths, as an `attention.Step`.

    Attributes:
        groups: for each group, its step and its KV heads.
        raw, selects: see `Step`; the same in all groups. A compiled layer reads them here, and then nothing of groups.
    """

    groups: tuple[tuple[Step, tuple[int, ...]], ...]
    raw: int
    selects: bool

    @torch.compiler.disable(recursive=False)
    def attend(self, attention: BeaconAttention, q: Tensor, k: Tensor, v: Tensor, own: Own) -> Tensor:
        """See `Step`. Query heads follow their KV head.

        A compiled layer leaves this uncompiled, and compiles each group's step by itself, for any number of heads:
        layers divide their heads in many ways, and torch keeps few compiled versions of a function.
        """
        grouped = q.unflatten(1, (k.shape[1], -1))  # (Q, K, queries of a KV head, H)
        found: dict[int, Tensor] = {}
        for step, heads in self.groups:
            own_g = None if own is None else (_some(own[0], heads), _some(own[1], heads))
            out = step.attend(attention, _some(grouped, heads).flatten(1, 2), _some(k, heads), _some(v, heads), own_g)
            found |= zip(heads, out.unflatten(1, (len(heads), -1)).unbind(1), strict=True)
        return _in_order(found).flatten(1, 2)


@torch.compiler.disable
def _some(x: Tensor, heads: Sequence[int]) -> Tensor:
    """Return some heads of (n, K, ...). Indices would be copied to the device, which a CUDA graph cannot capture."""
    by_head = x.unbind(1)
    return torch.stack([by_head[head] for head in heads], 1)


@torch.compiler.disable
def _in_order(found: Mapping[int, Tensor]) -> Tensor:
    """Join (n, ...) of each head: -> (n, K, ...)."""
    return torch.stack([found[head] for head in range(len(found))], 1)
