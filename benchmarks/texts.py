"""Texts for clients of a server. The same numbers always give the same text."""

from random import Random

ALIKE = 3  # documents that have their first half in common
SIZES = 6  # different lengths
SHORTEST = 40  # words
_TEXT = (
    "the a river mill stone bridge old keeper wrote letters about every winter storm and counted boats until spring "
    "came with merchants who sold lamps maps salt wool copper bells for seven coins while children asked where it "
    "all began near harbour gates under quiet stars"
)
QUESTIONS = ("Who is it about?", "What was sold?", "Where does it begin?", "Count the boats.", "Write the next line.")


def words(count: int, seed: int) -> str:
    """Return some words."""
    return " ".join(Random(seed).choices(_TEXT.split(), k=count))


def document(number: int, longest: int) -> str:
    """Return a document of `SHORTEST` to `longest` words; `ALIKE` in a row begin alike, and are equally long."""
    group = number // ALIKE
    count = int(SHORTEST * (longest / SHORTEST) ** (group % SIZES / (SIZES - 1)))
    return f"{words(count // 2, group)} {words(count - count // 2, 1000 + number)}"


def beginning(number: int, longest: int) -> str:
    """Return the beginning of a plain prompt, which other prompts share."""
    return words(longest // 4, 2000 + number)
