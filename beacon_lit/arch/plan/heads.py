"""Groups of KV heads that keep the same of a text: the same number of beacons, or the same sliding window.

A group is planned like a model of its own (`LayerKind.rows`): its memory has its own length and slots. All groups read
the same raw tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from beacon_lit.arch.config import BeaconConfig
from beacon_lit.arch.plan.kinds import LayerKind, Memory


@dataclass(frozen=True)
class HeadGroups:
    """The groups of heads.

    Attributes:
        members: for each group, for each layer, the KV heads of the group.
        kinds: for each group, what its layers keep. The first group has memory, though perhaps no heads.
    """

    members: tuple[tuple[tuple[int, ...], ...], ...]
    kinds: tuple[LayerKind, ...]

    @classmethod
    def of(cls, config: BeaconConfig, layers: Sequence[LayerKind], heads: int) -> "HeadGroups":
        """Group the heads of a model by the kinds of their layers, and by their shares if there are head budgets.

        Args:
            config: the beacon settings.
            layers: the kind of each layer.
            heads: KV heads of each layer.

        Raises:
            ValueError: head budgets of another model, or of one with sliding windows.
        """
        if config.head_budgets is None:
            kinds = tuple(dict.fromkeys([Memory(), *layers]))
            return cls(tuple(tuple(tuple(range(heads)) if own == kind else () for own in layers) for kind in kinds), kinds)
        if any(kind.reach is not None for kind in layers):
            raise ValueError(
                "head_budgets=... is not allowed for a backbone with sliding windows, whose layers do not all have "
                "beacons; allowed: null"
            )
        shape = len(config.head_budgets), len(config.head_budgets[0])
        if shape != (len(layers), heads):
            raise ValueError(
                f"head_budgets of {shape[0]} layers with {shape[1]} KV heads is not allowed; "
                f"allowed: {len(layers)} layers with {heads} KV heads, as the backbone has"
            )
        members = tuple(
            tuple(tuple(head for head, own in enumerate(row) if own == share) for row in config.head_budgets)
            for share in config.group_shares
        )
        return cls(members, tuple(map(Memory, range(len(members)))))

    @property
    def slide(self) -> bool:
        """Whether some layers have a sliding window."""
        return any(kind.reach is not None for kind in self.kinds)

    @cached_property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """All (layer, group) that have heads, in order: the parts that a cache consists of."""
        layers = range(len(self.members[0]))
        return tuple((layer, group) for layer in layers for group, rows in enumerate(self.members) if rows[layer])
