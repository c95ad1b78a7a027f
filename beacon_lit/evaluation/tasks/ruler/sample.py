"""What the subsets of RULER share: samples of a size, made from a random state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class RulerSample:
    """A text with a question, and its answers.

    Attributes:
        text: the text, with the question at its end.
        stem: beginning of the answer, which the model continues.
        answers: reference answers.
    """

    text: str
    stem: str
    answers: Sequence[str]


Make = Callable[[Random, int], RulerSample]
"""Random state, size -> a sample. The size counts parts of the text, such as sentences: the larger, the longer."""


@dataclass(frozen=True)
class RulerSubset:
    """One of the 13 subsets, for one length.

    Attributes:
        make: makes its samples.
        new_tokens: maximum number of tokens of an answer.
        least: the smallest size.
        any_answer: whether one of the answers is enough; else the score is the share of the answers that are given.
        source: where its text comes from, for the records.
    """

    make: Make
    new_tokens: int
    least: int = 0
    any_answer: bool = False
    source: str = "made-up"
