"""Strings that end an answer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria


class StopStrings(StoppingCriteria):
    """Ends a row once one of the strings is in what has been generated. (Transformers' own looks at the prompt, too:
    after a prompt that ends with a line break, "\\n\\n" would be complete after another one.)

    Args:
        strings: that end an answer; special tokens count as they are written.
        tokenizer: the model's.
        start: tokens of the prompts, padding included.

    Attributes:
        lengths: for each row that has ended so, the tokens of its answer up to the one that completed the string.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Any, start: int) -> None:
        self.strings, self.tokenizer, self.start = tuple(strings), tokenizer, start
        self.lengths: dict[int, int] = {}
        # A string of n bytes is complete within its last n tokens; a decoder may treat the first ones differently.
        self._tail = max((len(string.encode()) for string in strings), default=0) + 8

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """(B,) bool: which rows have ended."""
        answers = input_ids[:, self.start :]
        for row, ids in enumerate(answers[:, -self._tail :].tolist()):
            if row not in self.lengths:
                text = self.tokenizer.decode(ids)
                if any(string in text for string in self.strings):
                    self.lengths[row] = answers.shape[1]
        return torch.tensor([row in self.lengths for row in range(len(answers))], device=input_ids.device)
