"""What the subsets have in common: a sample of a size, made from a random state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Item:
    """Something to ask.

    text: what is read, the question at its end
    stem: how the answer begins, which the model does not write itself
    answers: what the answer is to say
    """

    text: str
    stem: str
    answers: Sequence[str]


Make = Callable[[Random, int], Item]
"""Random state, size -> a sample. The size counts what fills it, such as sentences: the more, the longer it is."""


@dataclass(frozen=True)
class Subset:
    """make: its samples
    new_tokens: the most tokens of an answer
    least: the smallest size
    any_answer: whether one of the answers is enough; else the score is the share of them that are said
    source: where its text is from, for the records
    """

    make: Make
    new_tokens: int
    least: int = 0
    any_answer: bool = False
    source: str = "made-up"
