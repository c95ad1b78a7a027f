"""What a model remembers of a sequence, as a value: made by one call, passed to the next, never changed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from beacon_lit.arch.ratio import Ratio


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
        ratio: of the open window: the one in use ("beacons"), or the smallest that calls gave for it ("raw").
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
    ratio: Ratio | None = None
    adapted: int | None = None

    @property
    def memory_slots(self) -> int:
        """Slots of memory."""
        return self.sink_slots + self.kept_slots + self.beacon_slots


@dataclass(frozen=True, eq=False)
class LayerState:
    """Keys and values of one layer, all rows end to end.

    Attributes:
        k, v: (F, K, H), for each row `[memory | open window]`; keys are rotated and never move again.
        moving_k, moving_v: (C, K, H), for each row `[overlap | open window]`; keys are not rotated, they will get
            another slot. The open window is among them only where its beacons are inserted as tokens come.
    """

    k: Tensor
    v: Tensor
    moving_k: Tensor
    moving_v: Tensor

    def select(self, fixed: Tensor, moving: Tensor) -> "LayerState":
        """The entries at these places."""
        fixed, moving = fixed.to(self.k.device), moving.to(self.k.device)
        return LayerState(self.k[fixed], self.v[fixed], self.moving_k[moving], self.moving_v[moving])

    def to(self, target: torch.device | torch.dtype) -> "LayerState":
        """The same on another device or in another dtype."""
        return LayerState(*(getattr(self, name).to(target) for name in ("k", "v", "moving_k", "moving_v")))


@dataclass(frozen=True, eq=False)
class BeaconCache:
    """Memory and open window of a batch of sequences.

    Attributes:
        rows: counts of each row.
        layers: keys and values of each layer.
        last_hidden: (B, D), each row's last final hidden state; it scores the first label of the next call.
        unfinished: "raw" or "beacons", what the open window holds.
        interleaved: whether beacons are inserted among a window's tokens, not appended.
    """

    rows: tuple[RowState, ...]
    layers: tuple[LayerState, ...] = field(repr=False)
    last_hidden: Tensor = field(repr=False)
    unfinished: str = "raw"
    interleaved: bool = True

    @property
    def sink_slots(self) -> int:
        """Memory slots of sink tokens, 0 until the first window closes; the most where rows differ."""
        return max(row.sink_slots for row in self.rows)

    @property
    def beacon_slots(self) -> int:
        """Memory slots of beacons."""
        return max(row.beacon_slots for row in self.rows)

    @property
    def overlap_slots(self) -> int:
        """Raw tokens of the previous window that are still visible."""
        return max(row.overlap_slots for row in self.rows)

    @property
    def window_slots(self) -> int:
        """Raw and beacon slots of the open window."""
        return max(row.window_slots for row in self.rows)

    @property
    def seen_tokens(self) -> int:
        """Raw tokens read."""
        return max(row.seen_tokens for row in self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = [tensor for layer in self.layers for tensor in vars(layer).values()]
        return sum(tensor.nbytes for tensor in [*tensors, self.last_hidden])

    def fork(self) -> "BeaconCache":
        """A second cache that can grow on its own. It shares this one's storage: nothing is ever written to it."""
        return replace(self)

    def select(self, rows: Sequence[int]) -> "BeaconCache":
        """Some of the rows, in any order and any number of times.

        Raises:
            ValueError: a row that there is not.
        """
        for row in rows:
            if not 0 <= row < len(self.rows):
                raise ValueError(f"row {row} is not allowed; allowed: 0 to {len(self.rows) - 1}")
        moving = [row.overlap_slots + (row.window_slots if self.has_moving_window else 0) for row in self.rows]
        fixed = _spans([row.memory_slots + row.window_slots for row in self.rows], rows)
        layers = tuple(layer.select(fixed, _spans(moving, rows)) for layer in self.layers)
        picked = self.last_hidden[torch.tensor(list(rows), device=self.last_hidden.device)]
        return replace(self, rows=tuple(self.rows[row] for row in rows), layers=layers, last_hidden=picked)

    @property
    def has_moving_window(self) -> bool:
        """Whether open windows hold beacons, which get other slots when the window closes."""
        return self.unfinished == "beacons" and self.interleaved

    def to(self, target: torch.device | torch.dtype) -> "BeaconCache":
        """The same on another device or in another dtype."""
        layers = tuple(layer.to(target) for layer in self.layers)
        return replace(self, layers=layers, last_hidden=self.last_hidden.to(target))  # type: ignore[call-overload]


def _spans(lengths: Sequence[int], rows: Sequence[int]) -> Tensor:
    """Places of some rows' entries among all, end to end."""
    starts = [sum(lengths[:row]) for row in rows]
    spans = [torch.arange(start, start + lengths[row]) for start, row in zip(starts, rows, strict=True)]
    return torch.cat(spans) if spans else torch.empty(0, dtype=torch.int64)
