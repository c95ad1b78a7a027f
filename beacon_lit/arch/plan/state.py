"""The state of a row: counts of what earlier calls have read of its sequence."""

from dataclasses import dataclass

from beacon_lit.arch.ratios import Ratio


@dataclass(frozen=True)
class RowState:
    """Counts of one row. Slots are numbered `[memory | overlap | open window]`.

    Attributes:
        seen_tokens: raw tokens read.
        windows: windows closed.
        sink_slots: memory slots of the sequence's first tokens.
        kept_slots: memory slots of other raw tokens, of windows kept raw.
        beacon_slots: memory slots of beacons.
        group_slots: memory slots of beacons of each group of heads; () without head budgets. Then `beacon_slots` is the
            average over all heads, rounded up.
        overlap_slots: slots of the previous window's last raw tokens, which the open window still sees.
        open_ids: token ids of the open window.
        window_slots: raw and beacon slots of the open window.
        capacity: raw tokens at which the open window is full.
        ratios: ratios that calls gave for the open window, as (tokens in the window before the call, ratio); the last
            is in use. "raw": each is smaller than the one before; "beacons": there is one. Tokens are -1 for a head
            that is kept raw in any case (`skip`).
        adapted: the number that the ratio policy remembers of the sequence: under "adapt-N" the ratio chosen.
    """

    capacity: int
    seen_tokens: int = 0
    windows: int = 0
    sink_slots: int = 0
    kept_slots: int = 0
    beacon_slots: int = 0
    overlap_slots: int = 0
    open_ids: tuple[int, ...] = ()
    window_slots: int = 0
    ratios: tuple[tuple[int, Ratio], ...] = ()
    adapted: int | None = None
    group_slots: tuple[int, ...] = ()

    @property
    def ratio(self) -> Ratio | None:
        """The ratio of the open window; None while no call has given one."""
        return self.ratios[-1][1] if self.ratios else None

    @property
    def memory_slots(self) -> int:
        """All memory slots."""
        return self.sink_slots + self.kept_slots + self.beacon_slots

    def memory_of(self, group: int) -> int:
        """All memory slots of a group of heads."""
        beacons = self.group_slots[group] if self.group_slots else self.beacon_slots
        return self.sink_slots + self.kept_slots + beacons

    @property
    def slots(self) -> int:
        """All slots in use."""
        return self.memory_slots + self.overlap_slots + self.window_slots
