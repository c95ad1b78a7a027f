"""Words to count: the most frequent ones of a list, and those of a coded text whose frequencies fall off."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from math import pi
from random import Random

from beacon_lit.evaluation.tasks.ruler import words
from beacon_lit.evaluation.tasks.ruler.grading import NEW_TOKENS
from beacon_lit.evaluation.tasks.ruler.sample import RulerSample

SHORT = 4096  # below it words are repeated less often
_COMMON = 10

_LIST = "Here is a numbered list of words. Some of them come more often than others; keep those in mind."
_LIST_QUESTION = "Question: Which 10 words come most often in the list above?"
_LIST_STEM = "Answer: The 10 words that come most often in the list above are:"

_CODED = "The text below is written in coded words. Count them, and find the three that come most often."
_CODED_QUESTION = (
    "Question: Which three coded words come most often in the text above? Leave out the dots '...' and explain nothing."
)
_CODED_STEM = "Answer: The three coded words that come most often in the text above are:"


@dataclass(frozen=True)
class CommonWords:
    """Makes lists in which ten words come 30 times each and others 3 times (in short prompts 6 times, and once).

    A shorter list, which is solved as an example, precedes each.

    Attributes:
        length: tokens of a prompt.
    """

    length: int

    def __call__(self, rng: Random, size: int) -> RulerSample:
        """Make a sample whose size is the number of other words."""
        short = self.length < SHORT
        example = _list(rng, 10 if short else 30, *((3, 1) if short else (10, 3)))
        asked = _list(rng, size, *((6, 1) if short else (30, 3)))
        solved = f"{example.text}\n{example.stem} {_numbered(example.answers)}"
        return RulerSample(f"{solved}\n{asked.text}", asked.stem, asked.answers)


def _list(rng: Random, others: int, often: int, seldom: int) -> RulerSample:
    drawn = _words(rng, _COMMON + others)
    entries = drawn[:_COMMON] * often + drawn[_COMMON:] * seldom
    rng.shuffle(entries)
    return RulerSample(f"{_LIST}\n{_numbered(entries)}\n{_LIST_QUESTION}", _LIST_STEM, drawn[:_COMMON])


def _words(rng: Random, count: int) -> list[str]:
    """Draw different English words, or made-up words if there are not enough of them."""
    return (
        rng.sample(words.SINGLE, count)
        if count <= len(words.SINGLE)
        else words.distinct(lambda: words.made_up(rng), count)
    )


def _numbered(entries: Sequence[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(entries, 1))


@dataclass(frozen=True)
class FrequentWords:
    """Makes texts of coded words with six letters, of which the k-th has a share of 1 / k^2 / zeta(2).

    The first word is written as dots.

    Attributes:
        length: tokens of a prompt, which determine the number of different words.
    """

    length: int

    def __call__(self, rng: Random, size: int) -> RulerSample:
        """Make a sample whose size is the number of words, before shares of them are rounded down."""
        coded = words.distinct(
            lambda: words.letters(rng, string.ascii_lowercase, 6), max(8, (self.length - NEW_TOKENS["fwe"]) // 50)
        )
        shares = [size * 6 / pi**2 / rank**2 for rank in range(1, len(coded) + 1)]
        text = [word for word, share in zip(["...", *coded[1:]], shares, strict=True) for _ in range(int(share))]
        rng.shuffle(text)
        return RulerSample(f"{_CODED} {' '.join(text)}\n{_CODED_QUESTION}", _CODED_STEM, coded[1:4])
