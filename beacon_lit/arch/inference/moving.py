"""Static buffers of moving entries (`nn.state.LayerState`), for decoding token by token.

A row has places for `[overlap | open window]`. Windows begin at the same place in all rows, so overlaps end there. The
last place is scratch for rows that read nothing in a step.

Shape legend: B rows, K KV heads of a part, C places, H head dim.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Opened:
    """Where the moving entries of new tokens are written in one layer.

    Attributes:
        buffers: (B, K, C, H) each, see `Moving`.
        places: (P,) int64, places of the new tokens.
    """

    buffers: Sequence[Tensor]
    places: Tensor

    def write(self, rows: Tensor, *new: Tensor) -> None:
        """Write new entries of rows (P,): (P, K, H) for each buffer."""
        for buffer, each in zip(self.buffers, new, strict=True):
            buffer[rows, :, self.places] = each.to(buffer.dtype)  # narrower under autocast


class Moving:
    """Moving entries of a batch of rows. Their values are in another buffer, with those of all slots.

    Args:
        like: (parts, B, K, S, H), a buffer of the same parts.
        overlap: most raw tokens of an overlap.
        window: most slots of an open window; 0 where open windows are not among the moving entries.
        selects: whether beacons are selected.

    Attributes:
        buffers: (parts, B, K, C, H) each: keys before RoPE; and where beacons are selected, keys before RoPE and values
            that the beacons' own maps make of the same tokens.
        start: the place of a window's first token.
        window, selects: see above.
    """

    def __init__(self, like: Tensor, overlap: int, window: int, selects: bool) -> None:
        shape = *like.shape[:3], overlap + (window + 1 if window else 0), like.shape[4]
        self.buffers = [like.new_zeros(shape) for _ in range(3 if selects else 1)]
        self.start, self.window, self.selects = overlap, window, selects

    def opened(self, places: Tensor) -> "list[Opened | None]":
        """Return for each part where new tokens at these places of their windows are written; None if they are not."""
        at = self.start + places
        return [Opened(buffers, at) if self.window else None for buffers in zip(*self.buffers, strict=True)]

    def count(self, overlap: int, opened: int) -> int:
        """Count a row's moving entries, given the slots of its overlap and open window."""
        return overlap + (opened if self.window else 0)

    def span(self, overlap: int, opened: int) -> slice:
        """Return the places of a row's moving entries."""
        return slice(self.start - overlap, self.start - overlap + self.count(overlap, opened))

    def load(self, row: int, span: slice, entries: Iterable[Tensor]) -> None:
        """Load a row's entries: (parts, n, K, H) for each buffer."""
        for buffer, each in zip(self.buffers, entries, strict=True):
            buffer[:, row, :, span] = each.transpose(1, 2)


def read_entries(buffer: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """Read entries, the heads of all parts together.

    Args:
        buffer: (parts, B, K, C, H).
        rows: (n, 1) int64.
        places: (n, m) or (m,) int64, places in each of these rows.

    Returns:
        (n, m, parts K, H).
    """
    return buffer[:, rows, :, places].flatten(2, 3)


def read_heads(buffer: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """Read entries as `read_entries` does, at places (n, m, parts K) of each head's own."""
    heads = torch.arange(places.shape[-1], device=buffer.device)
    return buffer[heads // buffer.shape[2], rows[..., None], heads % buffer.shape[2], places]


def write_entries(buffer: Tensor, rows: Tensor, places: Tensor, entries: Tensor) -> None:
    """Write entries (n, m, parts K, H) where `read_entries` would read them."""
    buffer[:, rows, :, places] = entries.unflatten(2, (len(buffer), -1))
