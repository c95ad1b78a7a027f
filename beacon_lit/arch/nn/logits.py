"""Turn products into logits: cap them softly (Gemma 2), and divide those of the head (Granite)."""

from dataclasses import dataclass

import torch
from torch import Tensor


def soft_cap(x: Tensor, cap: float | None) -> Tensor:
    """Compress values smoothly to -cap .. cap, with the backbones' operations; None leaves them as they are."""
    return x if cap is None else torch.tanh(x / cap) * cap


@dataclass(frozen=True)
class LogitScale:
    """What makes the output of a language-model head logits.

    Attributes:
        divisor: what the output is divided by.
        cap: soft cap of the quotient; None: there is none.
    """

    divisor: float = 1.0
    cap: float | None = None

    def logits(self, output: Tensor) -> Tensor:
        """Compute logits of the head's output, of any shape."""
        return soft_cap(output if self.divisor == 1.0 else output / self.divisor, self.cap)

    def chain(self, slope: Tensor, logits: Tensor) -> Tensor:
        """Change a slope by `logits`, in place, into the slope by the head's output."""
        if self.cap is not None:
            slope.mul_(1 - (logits / self.cap).square())
        return slope if self.divisor == 1.0 else slope.div_(self.divisor)
