"""Attend in groups of heads that have memory of different lengths."""

from dataclasses import dataclass

import torch
from torch import Tensor

from beacon_lit.arch.nn.attention import BeaconAttention, Own, Step


@dataclass(frozen=True, eq=False)
class GroupedStep:
    """A pass in which groups of KV heads have memory of different lengths, as an `attention.Step`.

    Attributes:
        steps: the pass as each group sees it.
        members: for each group, for each layer, the KV heads of the group.
    """

    steps: tuple[Step, ...]
    members: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def raw(self) -> int:
        """See `Step`."""
        return self.steps[0].raw

    @property
    def selects(self) -> bool:
        """See `Step`."""
        return self.steps[0].selects

    def attend(self, attention: BeaconAttention, q: Tensor, k: Tensor, v: Tensor, own: Own) -> Tensor:
        """See `Step`. Query heads follow their KV head."""
        found, order = [], []
        grouped = q.unflatten(1, (k.shape[1], -1))  # (Q, K, queries of a KV head, H)
        for step, members in zip(self.steps, self.members, strict=True):
            heads = list(members[attention.layer_idx])
            if not heads:
                continue
            q_g, k_g, v_g = (x if len(heads) == k.shape[1] else x[:, heads] for x in (grouped, k, v))
            own_g = None if own is None else (own[0][:, heads], own[1][:, heads])
            out = step.attend(attention, q_g.flatten(1, 2), k_g, v_g, own_g)
            found.append(out.unflatten(1, (len(heads), -1)))
            order += heads
        if len(found) == 1:
            return found[0].flatten(1, 2)
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return torch.cat(found, 1)[:, inverse].flatten(1, 2)
