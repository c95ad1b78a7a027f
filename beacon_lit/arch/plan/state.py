"""Where each row of a batch stands in its sequence."""

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
        overlap_slots: raw tokens of the previous window that are still visible.
        open_ids: raw tokens of the open window.
        window_slots: raw and beacon slots of the open window.
        capacity: raw tokens at which the open window is full.
        ratios: what calls gave for the open window, as (tokens that it had then, ratio): the one in use ("beacons"), or
            each that was smaller than those before ("raw"). Tokens are -1 for a head that is kept raw in any case.
        adapted: the sequence's ratio under the policy "adapt-N", once it is chosen.
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

    @property
    def ratio(self) -> Ratio | None:
        """Of the open window, None as long as no call gave one."""
        return self.ratios[-1][1] if self.ratios else None

    @property
    def memory_slots(self) -> int:
        """Slots of memory."""
        return self.sink_slots + self.kept_slots + self.beacon_slots

    @property
    def slots(self) -> int:
        """All slots in use."""
        return self.memory_slots + self.overlap_slots + self.window_slots
