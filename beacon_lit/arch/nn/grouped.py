"""Attend in layers whose heads keep different things: a step for each group of heads, or for each layer."""

from collections.abc import Iterable, Sequence
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
    return present[0][0] if len(present) == 1 else GroupedStep(present)


@dataclass(frozen=True, eq=False)
class GroupedStep:
    """A layer's part of a pass in which groups of KV heads have memory of different lengths, as an `attention.Step`.

    Attributes:
        groups: for each group, its step and its KV heads.
    """

    groups: tuple[tuple[Step, tuple[int, ...]], ...]

    @property
    def raw(self) -> int:
        """See `Step`."""
        return self.groups[0][0].raw

    @property
    def selects(self) -> bool:
        """See `Step`."""
        return self.groups[0][0].selects

    def attend(self, attention: BeaconAttention, q: Tensor, k: Tensor, v: Tensor, own: Own) -> Tensor:
        """See `Step`. Query heads follow their KV head."""
        grouped = q.unflatten(1, (k.shape[1], -1))  # (Q, K, queries of a KV head, H)
        found: dict[int, Tensor] = {}
        for step, heads in self.groups:
            q_g, k_g, v_g = (_some(x, heads) for x in (grouped, k, v))
            own_g = None if own is None else (_some(own[0], heads), _some(own[1], heads))
            out = step.attend(attention, q_g.flatten(1, 2), k_g, v_g, own_g)
            found |= zip(heads, out.unflatten(1, (len(heads), -1)).split(1, 1), strict=True)
        return torch.cat([found[head] for head in range(k.shape[1])], 1).flatten(1, 2)


def _some(x: Tensor, heads: Sequence[int]) -> Tensor:
    """Return some heads of (n, K, ...). Indices would be copied to the device, which a CUDA graph cannot capture."""
    return x if len(heads) == x.shape[1] else torch.cat([x[:, head : head + 1] for head in heads], 1)
