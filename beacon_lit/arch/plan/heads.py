"""Groups of KV heads that get the same number of beacons.

A group is planned like a model of its own (`windows.group_rows`): its memory has its own length and slots. All groups
read the same raw tokens.
"""

from dataclasses import dataclass
from functools import cached_property

from beacon_lit.arch.config import BeaconConfig


@dataclass(frozen=True)
class HeadGroups:
    """The groups of heads.

    Attributes:
        members: for each group, for each layer, the KV heads of the group.
    """

    members: tuple[tuple[tuple[int, ...], ...], ...]

    @classmethod
    def of(cls, config: BeaconConfig, layers: int, heads: int) -> "HeadGroups":
        """Group the heads of a model by their shares; without head budgets all heads are one group.

        Raises:
            ValueError: head budgets of another model.
        """
        if config.head_budgets is None:
            return cls(((tuple(range(heads)),) * layers,))
        shape = len(config.head_budgets), len(config.head_budgets[0])
        if shape != (layers, heads):
            raise ValueError(
                f"head_budgets of {shape[0]} layers with {shape[1]} KV heads is not allowed; "
                f"allowed: {layers} layers with {heads} KV heads, as the backbone has"
            )
        return cls(
            tuple(
                tuple(tuple(head for head, own in enumerate(row) if own == share) for row in config.head_budgets)
                for share in config.group_shares
            )
        )

    @cached_property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """All (layer, group) that have heads, in order: the parts that a cache consists of."""
        layers = range(len(self.members[0]))
        return tuple((layer, group) for layer in layers for group, rows in enumerate(self.members) if rows[layer])
