"""Layer kinds: what a layer keeps of a text, beacon memory or a sliding window of raw tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Protocol

from beacon_lit.arch.config import BeaconConfig, OwnMap
from beacon_lit.arch.plan.state import RowState
from beacon_lit.arch.plan.windows import Row, group_rows


class Entries(NamedTuple):
    """Numbers of entries that a layer keeps of a row, in the order of their slots.

    Attributes:
        memory: entries from before the open window, whose keys are rotated.
        overlap: entries from before the open window whose keys will move, and are kept before RoPE.
        open: entries of the open window.
    """

    memory: int
    overlap: int
    open: int


class LayerKind(Protocol):
    """What a layer keeps of a text, and how far it sees.

    Attributes:
        layer_type: the layer's type as configs of transformers spell it. It names the layer's RoPE where
            `rope_parameters` are given for each type.
        reach: how many raw tokens a query sees, its own included; None: its window, and what memory holds.
    """

    @property
    def layer_type(self) -> str: ...

    @property
    def reach(self) -> int | None: ...

    def entries(self, state: RowState) -> Entries:
        """Count the entries that a layer keeps of a row."""

    def first_slot(self, state: RowState) -> int:
        """Return the slot of a row's first entry; the others follow one by one."""

    def rows(self, rows: Sequence[Row], config: BeaconConfig) -> tuple[Row, ...]:
        """Return what a call does to the rows, with the numbers of beacons and entries that the layer has."""

    def own_maps(self, config: BeaconConfig) -> tuple[OwnMap, ...]:
        """Return the maps of `params` that have an effect in such a layer."""


@dataclass(frozen=True)
class Memory:
    """A layer that sees earlier windows through beacons.

    Attributes:
        group: the group of heads, see `BeaconConfig.group_shares`.
    """

    group: int = 0

    layer_type: ClassVar[str] = "full_attention"
    reach: ClassVar[None] = None

    def entries(self, state: RowState) -> Entries:
        """See `LayerKind`."""
        return Entries(state.memory_of(self.group), state.overlap_slots, state.window_slots)

    def first_slot(self, state: RowState) -> int:
        """See `LayerKind`."""
        return 0

    def rows(self, rows: Sequence[Row], config: BeaconConfig) -> tuple[Row, ...]:
        """See `LayerKind`."""
        return group_rows(rows, config, self.group)

    def own_maps(self, config: BeaconConfig) -> tuple[OwnMap, ...]:
        """See `LayerKind`."""
        return config.own_maps


@dataclass(frozen=True)
class Sliding:
    """A layer that sees the last raw tokens of the text, across the borders of windows, and no memory.

    Slots are positions in the text. A beacon sees what the last raw token of its unit sees, and leaves nothing behind.
    The open window, which may be read again when it closes, is kept in addition to what its first token sees.

    Attributes:
        reach: how many raw tokens a query sees, its own included.
    """

    reach: int

    layer_type: ClassVar[str] = "sliding_attention"

    def entries(self, state: RowState) -> Entries:
        """See `LayerKind`."""
        opened = len(state.open_ids)
        return Entries(self._before(state.seen_tokens - opened), 0, opened)

    def first_slot(self, state: RowState) -> int:
        """See `LayerKind`."""
        position = state.seen_tokens - len(state.open_ids)
        return position - self._before(position)

    def rows(self, rows: Sequence[Row], config: BeaconConfig) -> tuple[Row, ...]:
        """See `LayerKind`."""
        return tuple(map(self._row, rows))

    def own_maps(self, config: BeaconConfig) -> tuple[OwnMap, ...]:
        """See `LayerKind`. No query sees the keys and values of beacons."""
        return tuple(own for own in config.own_maps if own.name not in ("k", "v"))

    def _row(self, row: Row) -> Row:
        past = row.windows[0].past
        return replace(row, memory=self._before(row.start - past), overlap=0, open_slots=past + row.rerun)

    def _before(self, position: int) -> int:
        """Return the number of raw tokens before `position` that the token there sees."""
        return min(self.reach - 1, position)


def kinds_of(layer_types: Sequence[str], reach: int) -> tuple[LayerKind, ...]:
    """Return the kind of each layer from its type, where those with a sliding window have this `reach`."""
    kinds: dict[str, LayerKind] = {Memory.layer_type: Memory(), Sliding.layer_type: Sliding(reach)}
    return tuple(kinds[name] for name in layer_types)


def kind_of(reach: int | None, group: int = 0) -> LayerKind:
    """Return the kind of layers with this `reach`."""
    return Memory(group) if reach is None else Sliding(reach)
