"""Groups of KV heads that keep the same of a text: the same number of beacons, or the same sliding window.

A group is planned like a model of its own (`LayerKind.rows`): its memory has its own length and slots. All groups read
the same raw tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from beacon_lit.arch.config import BeaconConfig
from beacon_lit.arch.plan.kinds import LayerKind, Memory


@dataclass(frozen=True)
class HeadGroups:
    """The groups of heads.

    Attributes:
        members: for each group, for each layer, the KV heads of the group.
        kinds: for each group, what it keeps. The first groups have memory, in the order of `group_shares`.
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
            ValueError: head budgets of another model.
        """
        # For each layer, the kind of each KV head.
        found: list[tuple[LayerKind, ...]] = [(kind,) * heads for kind in layers]
        if config.head_budgets is not None:
            with_memory = [layer for layer, kind in enumerate(layers) if kind.reach is None]
            shape = len(config.head_budgets), len(config.head_budgets[0])
            if shape != (len(with_memory), heads):
                raise ValueError(
                    f"head_budgets of {shape[0]} layers with {shape[1]} KV heads is not allowed; "
                    f"allowed: {len(with_memory)} layers with {heads} KV heads, as the backbone has"
                    f"{' (none with a sliding window, which have no beacons)' * (len(with_memory) < len(layers))}"
                )
            for layer, row in zip(with_memory, config.head_budgets, strict=True):
                found[layer] = tuple(Memory(config.group_shares.index(share)) for share in row)
        kinds = tuple(dict.fromkeys([*map(Memory, range(len(config.group_shares))), *chain(*found)]))
        members = (tuple(tuple(head for head, own in enumerate(row) if own == kind) for row in found) for kind in kinds)
        return cls(tuple(members), kinds)

    @property
    def with_memory(self) -> tuple[int, ...]:
        """The layers that have memory."""
        return tuple(dict.fromkeys(layer for layer, group in self.parts if self.kinds[group].reach is None))

    @property
    def reaches(self) -> tuple[int, ...]:
        """The different sizes of sliding windows; () if all layers have memory."""
        return tuple(kind.reach for kind in self.kinds if kind.reach is not None)

    @cached_property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """All (layer, group) that have heads, in order: the parts that a cache consists of."""
        layers = range(len(self.members[0]))
        return tuple((layer, group) for layer in layers for group, rows in enumerate(self.members) if rows[layer])
