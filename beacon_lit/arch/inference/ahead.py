"""Begin a decoding step before its tokens are known: with the likeliest ones, on a stream of its own.

The device then computes while the host chooses the tokens. A step that began with other tokens than those chosen is run
again: it writes to the same places.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Ahead:
    """What has begun, if anything. After a step with wrong tokens none begins again.

    Attributes:
        ids: (B,) int64, the tokens of the step that has begun; None: none has.
        wrong: whether a step began with wrong tokens.
        stream: the stream of what has begun; None on a CPU, where all is complete once it has begun.
    """

    def __init__(self, device: torch.device) -> None:
        self.ids: Tensor | None = None
        self.wrong = False
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def beside(self, ids: Tensor | None = None) -> Iterator[None]:
        """Let what is called within this context run on the other stream, after all that the current one has to do.

        Args:
            ids: (B,) int64, the tokens of a step that begins.
        """
        self.ids = ids
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
        with torch.cuda.stream(self.stream):  # None: the current one
            yield

    def take(self, ids: Tensor, rows: Sequence[int]) -> bool:
        """End the step that has begun; tell whether some rows of (B,) ids are its tokens."""
        if self.ids is None:
            return False
        # The host waits for the ids, which are known, but not for the step.
        begun, new = (self.ids, ids) if len(rows) == len(ids) else (self.ids[list(rows)], ids[list(rows)])
        self.wrong = not torch.equal(begun, new)
        self.end()
        return not self.wrong

    def end(self) -> None:
        """Let the current stream wait for what has begun."""
        self.ids = None
        if self.stream is not None:
            torch.cuda.current_stream(self.stream.device).wait_stream(self.stream)

    def synchronize(self) -> None:
        """Let the host wait for what has begun."""
        if self.stream is not None:
            self.stream.synchronize()
