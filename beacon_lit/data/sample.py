"""What a training sample is, and which lengths make one."""

from dataclasses import dataclass
from typing import Any

import numpy as np

LONG_RULES = ("split", "cut", "drop")


@dataclass(frozen=True, eq=False)
class Sample:
    """One row of a batch.

    id: names the document and, if it was split, the piece; shown in error reports
    input_ids: (L,) int32 token ids
    weights: (L,) float32, how much each token counts in the loss: 0 not at all, 1 as usual, more for answers
    """

    id: str
    input_ids: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class LengthRule:
    """Which lengths (in tokens, special tokens included) become samples.

    min_length, max_length: a sample has between `min_length` and `max_length` tokens
    window: tokens of a beacon window. A sample that is not longer has nothing to teach beacons and is left out
    long: what happens to text longer than `max_length`: "split" into consecutive pieces of random lengths, so that a
        model sees every length modulo the window; "cut" keeps its first `max_length` tokens; "drop" leaves it out
    seed: of the pieces' lengths
    """

    min_length: int
    max_length: int
    window: int
    long: str = "split"
    seed: int = 0

    def __post_init__(self) -> None:
        check_int("window", self.window, 1)
        check_int("min_length", self.min_length, 0)
        check_int("max_length", self.max_length, 1)
        check_int("seed", self.seed, 0)
        if self.max_length <= self.window:
            raise ValueError(
                f"max_length={self.max_length} leaves no sample longer than one window: must be at least "
                f"{self.window + 1} (window={self.window})"
            )
        if self.min_length > self.max_length:
            raise ValueError(f"min_length={self.min_length} must be at most max_length={self.max_length}")
        if self.long not in LONG_RULES:
            raise ValueError(f"long={self.long!r} must be one of {', '.join(LONG_RULES)}")

    @property
    def shortest(self) -> int:
        """The least number of tokens that a sample can have."""
        return max(self.min_length, self.window + 1)

    def too_short(self, length: int) -> str | None:
        """The reason to leave a text of `length` tokens out, or None."""
        if length < self.min_length:
            return "too_short"
        return "within_one_window" if length <= self.window else None


def token_weights(trained: np.ndarray, answer: np.ndarray, answer_share: float | None) -> np.ndarray:
    """(L,) float32 weights of a sample's tokens in the loss.

    trained, answer: (L,) bool, which tokens are trained, and which of these are an answer
    answer_share: the share of the sample's loss that the answer has; None: every trained token counts 1. The others
        keep 1, unless there are none
    """
    weights = trained.astype(np.float32)
    answers, others = int((answer & trained).sum()), int((trained & ~answer).sum())
    if answer_share == 1 and answers:
        weights[~answer] = 0
    elif answer_share is not None and answers and others:
        weights[answer & trained] = answer_share / (1 - answer_share) * others / answers
    return weights


def check_int(name: str, value: Any, least: int) -> None:
    """Raise a ValueError unless `value` is an integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r} must be an integer, at least {least}")
