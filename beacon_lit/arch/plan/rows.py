"""Pack a padded batch: its rows end to end, without the padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Where each row's raw tokens are in a (B, L) batch.

    Attributes:
        starts, lengths: row b has columns `starts[b]` to `starts[b] + lengths[b] - 1`.
        width: L.
    """

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    width: int

    @classmethod
    def of(cls, input_ids: Tensor, attention_mask: Tensor | None) -> "Rows":
        """Find the rows of a batch.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L) of 0 and 1, left or right padding; None means no padding.

        Raises:
            ValueError: an empty batch or row, another shape, or a mask with a zero between ones.
        """
        if input_ids.ndim != 2 or input_ids.numel() == 0:
            raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}; allowed: (B, L) with B >= 1 and L >= 1")
        batch, width = input_ids.shape
        if attention_mask is None:
            return cls((0,) * batch, (width,) * batch, width)
        if attention_mask.shape != input_ids.shape:
            raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}; input_ids {(batch, width)}")
        mask = attention_mask.to("cpu", torch.bool)
        lengths = mask.sum(1)
        starts = mask.int().argmax(1)
        columns = torch.arange(width)
        expected = (columns >= starts[:, None]) & (columns < (starts + lengths)[:, None])
        for row in (lengths == 0).nonzero().flatten().tolist():
            raise ValueError(f"attention_mask row {row} is all zeros; every row needs at least one token")
        for row in (mask != expected).any(1).nonzero().flatten().tolist():
            raise ValueError(f"attention_mask row {row} has a zero between ones; allowed: left or right padding")
        return cls(tuple(starts.tolist()), tuple(lengths.tolist()), width)

    @property
    def padded(self) -> bool:
        """Whether any row has padding."""
        return any(length != self.width for length in self.lengths)

    def pack(self, batch: Tensor) -> Tensor:
        """Put rows end to end without padding: (B, L, ...) -> (R, ...)."""
        flat = batch.reshape(-1, *batch.shape[2:])
        if not self.padded:
            return flat
        spans = [
            torch.arange(start, start + length) + row * self.width
            for row, (start, length) in enumerate(zip(self.starts, self.lengths, strict=True))
        ]
        return flat[move(torch.cat(spans), batch.device)]

    def unpack(self, packed: Tensor, columns: Sequence[int] | None = None) -> Tensor:
        """Undo `pack`: (R, ...) -> (B, L, ...), or the given columns; padding is zero."""
        columns = range(self.width) if columns is None else columns
        if not self.padded and len(columns) == self.width:
            return packed.reshape(len(self.lengths), self.width, *packed.shape[1:])
        offsets, total = [], 0
        for start, length in zip(self.starts, self.lengths, strict=True):
            offsets.append(total - start)
            total += length
        grid = torch.tensor(list(columns))[None] + torch.tensor(offsets)[:, None]
        first = torch.tensor(self.starts)[:, None] + torch.tensor(offsets)[:, None]
        inside = (grid >= first) & (grid < first + torch.tensor(self.lengths)[:, None])
        picked = packed[move(grid * inside, packed.device)]
        empty = move(~inside, packed.device).reshape(*inside.shape, *[1] * (packed.ndim - 1))
        return picked.masked_fill(empty, 0)

    def targets(self, labels: Tensor) -> Tensor:
        """Shift labels on the CPU to the packed tokens that predict them: (B, L) -> (R,), -100 for a row's last token.

        Values that belong to targets move to the predicted tokens if they are rolled forward by one.
        """
        packed = self.pack(labels)
        targets = packed.roll(-1)
        last = torch.tensor(self.lengths).cumsum(0) - 1
        return targets.index_fill(0, last, -100)


def check_ids(ids: Tensor, vocabulary: int, name: str) -> None:
    """Raise a ValueError unless all ids are in `0..vocabulary-1`."""
    if ids.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.stack(ids.aminmax()).tolist())
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise ValueError(f"{name} has the token id {wrong}; allowed: 0 to {vocabulary - 1}")


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to `device`; from pinned memory, so that nothing waits for the running step."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
