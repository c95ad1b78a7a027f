"""Ends answers at strings."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria


class StopStrings(StoppingCriteria):
    """Ends a row as soon as its answer contains one of the strings.

    Unlike the criterion of transformers it does not look at the prompt: after a prompt that ends with a line break,
    one more line break would complete "\\n\\n".

    Args:
        strings: what ends an answer; a special token counts as the text it is written as.
        tokenizer: the model's tokenizer.
        start: tokens of the prompts, padding included.

    Attributes:
        lengths: for each row that ended, the tokens of its answer up to the one that completed the string.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Any, start: int) -> None:
        self.strings, self.tokenizer, self.start = tuple(strings), tokenizer, start
        self.lengths: dict[int, int] = {}
        # A string of n bytes spans at most n tokens; a decoder may treat the first of them differently.
        self._tail = max((len(string.encode()) for string in strings), default=0) + 8

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return (B,) bool: which rows have ended."""
        answers = input_ids[:, self.start :]
        for row, ids in enumerate(answers[:, -self._tail :].tolist()):
            if row not in self.lengths:
                text = self.tokenizer.decode(ids)
                if any(string in text for string in self.strings):
                    self.lengths[row] = answers.shape[1]
        return torch.tensor([row in self.lengths for row in range(len(answers))], device=input_ids.device)
