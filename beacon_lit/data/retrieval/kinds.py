"""What is told and what is asked: one function per kind, which words a draft of its own from a random state.

A statement says what it is about by a name made up for it. A question repeats the name and nothing of the answer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

from beacon_lit.data.passkey import ANNOUNCEMENT, FILLER
from beacon_lit.data.retrieval import words

EXCERPT = 128  # tokens of text from the haystack that a draft may use


@dataclass(frozen=True)
class Draft:
    """The words of one sample.

    announcement: stands before the document
    statements: what is hidden in it, with the white space around; each occurs there once
    question, stem, answer: what is asked behind it. In plain text the answer follows the stem
    at_start: the statement opens the document; else its place is random
    once: what the question goes by, if not by the statement as a whole; it too occurs once in the document
    more: further statements, which fill the document in any order; else text from the haystack does
    """

    announcement: str
    statements: tuple[str, ...]
    question: str
    stem: str
    answer: str
    at_start: bool = False
    once: str = ""
    more: Iterator[str] | None = None


@dataclass(frozen=True)
class Kind:
    """draft: from a random state and an excerpt of the haystack; None where the excerpt is of no use
    filler: a line of the haystack that is made up where none is given
    """

    draft: Callable[[Random, str], Draft | None]
    filler: Callable[[Random], str] = words.sentence


def passkey(rng: Random, excerpt: str) -> Draft:
    """A five-digit number, told twice."""
    key = str(rng.randint(10_000, 99_999))
    statement = rng.choice(words.PASSKEY_STATEMENTS).format(key=key)
    announcement = rng.choice((ANNOUNCEMENT, *words.PASSKEY_ANNOUNCEMENTS))
    question, stem = rng.choice(words.PASSKEY_QUESTIONS)
    return Draft(announcement, (f"\n\n{statement}\n\n",), question, stem, key)


def needle(rng: Random, excerpt: str) -> Draft:
    """A sentence in running text, asked for the fact in it."""
    fact = rng.choice(words.FACTS)
    told = {"name": words.name(rng)} | {blank: make(rng) for blank, make in fact.blanks.items()}
    statement = f" {rng.choice(fact.statements)}".format(**told)
    question = rng.choice(fact.questions).format(**told)
    return Draft(_announcement(rng), (statement,), question, rng.choice(words.STEMS), fact.answer.format(**told))


def key_value(rng: Random, excerpt: str) -> Draft:
    """A document of many pairs, one of which is asked for."""
    pair, questions = rng.choice(words.PAIRS)
    pairs = _distinct(lambda: words.key(rng), rng)
    asked, answer = next(pairs)
    lines = (pair.format(key=key, value=value) + "\n" for key, value in pairs)
    first = (pair.format(key=asked, value=answer) + "\n", *islice(lines, 3))
    question = rng.choice(questions).format(key=asked)
    return Draft(_announcement(rng), first, question, rng.choice(words.STEMS), answer, more=lines)


def multi_needle(rng: Random, excerpt: str) -> Draft:
    """Two to six sentences of one pattern in running text; one of them is asked for, or up to four."""
    thing = rng.choice(words.THINGS)
    told = list(islice(_distinct(lambda: words.name(rng), rng), rng.randint(2, 6)))
    statement = rng.choice(words.NUMBERS)
    statements = tuple(f" {statement}".format(thing=thing, name=name, value=value) for name, value in told)
    asked = rng.sample(told, 1 if rng.random() < 0.5 else rng.randint(2, min(4, len(told))))
    one, several = rng.choice(words.NUMBER_QUESTIONS)
    question = (one if len(asked) == 1 else several).format(thing=thing, name=_listed([name for name, _ in asked]))
    answer = ", ".join(value for _, value in asked)
    return Draft(_announcement(rng), statements, question, rng.choice(words.STEMS), answer)


def copy(rng: Random, excerpt: str) -> Draft | None:
    """A passage of the haystack to repeat; or the words that the document begins with; or those after a phrase."""
    text = excerpt.split()[1:-1]  # the first and the last may be parts of words
    if len(text) < 10:
        return None
    task = rng.choice(("passage", "start", "after"))
    passage = " ".join(text[: rng.randint(10, min(40, len(text)))] if task == "passage" else text)
    stem = rng.choice(words.STEMS)
    if task == "passage":
        mark, question = rng.choice(words.PASSAGES)
        label = words.key(rng)
        statement = f"\n\n{mark}\n\n".format(label=label, passage=passage)
        return Draft(_announcement(rng), (statement,), question.format(label=label), stem, passage)
    count = rng.randint(4, min(12, len(text) - 5))
    if task == "start":
        question, announcement = rng.choice(words.START_QUESTIONS), rng.choice(words.TEXT_FOLLOWS)
        answer = " ".join(text[:count])
        return Draft(announcement, (passage + "\n\n",), question.format(count=count), stem, answer, at_start=True)
    length = min(rng.randint(5, 8), len(text) - count)
    first = rng.randint(0, len(text) - length - count)
    phrase, answer = (" ".join(part) for part in (text[first : first + length], text[first + length :][:count]))
    question = rng.choice(words.AFTER_QUESTIONS).format(count=count, phrase=phrase)
    return Draft(_announcement(rng), (f"\n\n{passage}\n\n",), question, stem, answer, once=phrase)


def _announcement(rng: Random) -> str:
    return rng.choice(words.ANNOUNCEMENTS)


def _distinct(make: Callable[[], str], rng: Random) -> Iterator[tuple[str, str]]:
    """Pairs of a name and a five-digit number without end; none of either comes twice."""
    names: set[str] = set()
    values: set[str] = set()
    while True:
        name, value = make(), words.number(rng)
        if name not in names and value not in values:
            names.add(name)
            values.add(value)
            yield name, value


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


_PASSKEY_LINES = [f"{line}." for line in FILLER.strip().rstrip(".").split(". ")]

KINDS = {
    # Between the lines of the evaluation's filler, in random order, so that no two samples are the same.
    "passkey": Kind(passkey, lambda rng: rng.choice(_PASSKEY_LINES)),
    "needle": Kind(needle),
    "key-value": Kind(key_value),
    "multi-needle": Kind(multi_needle),
    "copy": Kind(copy),
}
