"""Variable tracking: a value is passed from variable to variable; which variables have it in the end?"""

import string
from itertools import pairwise
from random import Random

from beacon_lit.evaluation.tasks.ruler import words
from beacon_lit.evaluation.tasks.ruler.sample import RulerSample

CHAIN = 5  # variables
_EXAMPLE_LINES = 15  # of noise: with announcement and question about 500 tokens

_ANNOUNCEMENT = "In the text below variables get values, some of them from one another. Keep track of them."
_QUESTION = "Question: Which variables have the value {value} in the text above? Find all of them."
_STEM = "Answer: Going by the text above, {count} variables have the value {value}, namely:"


def variables(rng: Random, size: int) -> RulerSample:
    """Make a chain of five variables among `size` lines of noise, after a shorter text that is solved."""
    example = _chain(rng, _EXAMPLE_LINES, letters=3)
    asked = _chain(rng, size, letters=5)
    solved = f"{example.text}\n{example.stem} {' '.join(example.answers)}"
    return RulerSample(f"{solved}\n\n{asked.text}", asked.stem, asked.answers)


def _chain(rng: Random, size: int, letters: int) -> RulerSample:
    names = words.distinct(lambda: words.letters(rng, string.ascii_uppercase, letters), CHAIN)
    value = str(rng.randint(10_000, 99_999))
    told = [f"VAR {names[0]} = {value}"]
    told += [f"VAR {name} = VAR {before}" for before, name in pairwise(names)]
    lines = words.NOISE * size
    words.hide(told, lines, words.between_lines(rng, size, CHAIN))
    document = "\n".join(lines)
    text = f"{_ANNOUNCEMENT}\n\n{document}\n{_QUESTION.format(value=value)}"
    return RulerSample(text, _STEM.format(count=len(names), value=value), names)
