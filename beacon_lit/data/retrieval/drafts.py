"""Drafts of retrieval samples: what is stated and asked, in phrases. One function per kind of retrieval.

Every statement is about a made-up name. Its question repeats the name and nothing of the answer. A draft has as many
questions as the function gets excerpts of the haystack, each about another statement.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

from beacon_lit.data.retrieval import made_up, phrases
from beacon_lit.data.retrieval.passkey import ANNOUNCEMENT, FILLER

EXCERPT = 128  # tokens of an excerpt: text of the haystack that a draft may use for a question


@dataclass(frozen=True)
class Exchange:
    """A question, the answer, and the stem that begins the answer in plain text."""

    question: str
    stem: str
    answer: str


@dataclass(frozen=True)
class Draft:
    """The words of one sample.

    Attributes:
        announcement: text before the document.
        statements: texts to insert into the document, with white space around; the document has each of them once.
        exchanges: questions and answers behind the document.
        at_start: whether the statement opens the document; otherwise its place is random.
        once: a phrase that the question relies on, if it does not rely on the whole statement; occurs once, too.
        more: further statements that fill the document in any order; None = text of the haystack fills the document.
    """

    announcement: str
    statements: tuple[str, ...]
    exchanges: tuple[Exchange, ...]
    at_start: bool = False
    once: str = ""
    more: Iterator[str] | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of retrieval.

    Attributes:
        draft: makes a draft from a random state and an excerpt per question; None if the excerpts are unfit.
        filler: makes up a line of the haystack where no haystack is given.
    """

    draft: Callable[[Random, Sequence[str]], Draft | None]
    filler: Callable[[Random], str] = made_up.sentence


def passkey(rng: Random, excerpts: Sequence[str]) -> Draft:
    """A five-digit number, stated twice. Several numbers belong to a person each."""
    several = len(excerpts) > 1
    told = list(islice(_distinct(lambda: f" of {made_up.name(rng)}" if several else "", rng), len(excerpts)))
    statements = [rng.choice(phrases.PASSKEY_STATEMENTS).format(of=of, key=key) for of, key in told]
    announcement = rng.choice(((ANNOUNCEMENT, phrases.PASSKEYS_ANNOUNCEMENT), *phrases.PASSKEY_ANNOUNCEMENTS))[several]
    asked = [(rng.choice(phrases.PASSKEY_QUESTIONS), of, key) for of, key in told]
    exchanges = tuple(Exchange(question.format(of=of), stem.format(of=of), key) for (question, stem), of, key in asked)
    return Draft(announcement, tuple(f"\n\n{statement}\n\n" for statement in statements), exchanges)


def needle(rng: Random, excerpts: Sequence[str]) -> Draft:
    """A sentence in running text, and a question about the fact in the sentence."""
    facts: dict[str, tuple[str, str]] = {}  # statement and question by answer
    names: set[str] = set()
    while len(facts) < len(excerpts):
        fact = rng.choice(phrases.FACTS)
        told = {"name": fact.name(rng)} | {blank: make(rng) for blank, make in fact.blanks.items()}
        answer = fact.answer.format(**told)
        if told["name"] not in names and not any(answer in other or other in answer for other in facts):
            names.add(told["name"])
            statement, question = rng.choice(fact.statements), rng.choice(fact.questions)
            facts[answer] = f" {statement.format(**told)}", question.format(**told)
    asked = {answer: question for answer, (_, question) in facts.items()}
    return Draft(_announcement(rng, excerpts), tuple(statement for statement, _ in facts.values()), _asked(rng, asked))


def key_value(rng: Random, excerpts: Sequence[str]) -> Draft:
    """A document of key-value pairs, and questions about some values."""
    pair, questions = rng.choice(phrases.PAIRS)
    pairs = _distinct(lambda: made_up.key(rng), rng)
    told = list(islice(pairs, len(excerpts)))
    lines = (pair.format(key=key, value=value) + "\n" for key, value in pairs)
    first = (*(pair.format(key=key, value=value) + "\n" for key, value in told), *islice(lines, 3))
    asked = {value: rng.choice(questions).format(key=key) for key, value in told}
    return Draft(_announcement(rng, excerpts), first, _asked(rng, asked), more=lines)


def multi_needle(rng: Random, excerpts: Sequence[str]) -> Draft:
    """Sentences of one pattern in running text: two to six, and two more for each further question.

    Each question asks about one to four of the sentences.
    """
    thing = rng.choice(made_up.THINGS)
    told = list(islice(_distinct(lambda: made_up.name(rng), rng), rng.randint(2, 6) + 2 * (len(excerpts) - 1)))
    statement = rng.choice(phrases.NUMBERS)
    statements = tuple(f" {statement}".format(thing=thing, name=name, value=value) for name, value in told)
    groups = []
    for left in reversed(range(len(excerpts))):  # questions that still need a needle of their own
        most = min(4, len(told) - left)
        groups.append(rng.sample(told, 1 if most < 2 or rng.random() < 0.5 else rng.randint(2, most)))
        told = [pair for pair in told if pair not in groups[-1]]
    one, several = rng.choice(phrases.NUMBER_QUESTIONS)
    asked = {
        ", ".join(value for _, value in group): (one if len(group) == 1 else several).format(
            thing=thing, name=_listed([name for name, _ in group])
        )
        for group in groups
    }
    return Draft(_announcement(rng, excerpts), statements, _asked(rng, asked))


def codes(rng: Random, excerpts: Sequence[str]) -> Draft:
    """Codes of many kinds in running text, in one pattern or in several. Some of them are not asked for."""
    alike = (made_up.item(rng), rng.choice(phrases.CODES)) if rng.random() < 0.5 else None
    separator = rng.choice(phrases.CODE_SEPARATORS)
    told: dict[str, tuple[str, str]] = {}  # statement and question by code
    keys: set[str] = set()
    wanted = len(excerpts) + rng.randint(0, min(12, len(excerpts)))
    while len(told) < wanted:
        item, (statement, questions) = alike or (made_up.item(rng), rng.choice(phrases.CODES))
        key, code = rng.choice((made_up.town, made_up.key, made_up.name))(rng), made_up.code(rng)
        last = key.split()[-1].lower()  # no key ends another
        if last in keys or any(code in other or other in code for other in told):
            continue
        keys.add(last)
        identifier = key.replace(" ", "_").replace("-", "_").lower()
        blanks = {"item": item, "key": key, "identifier": identifier, "code": code}
        told[code] = separator.format(statement.format(**blanks)), rng.choice(questions).format(**blanks)
    asked = {code: told[code][1] for code in rng.sample(list(told), len(excerpts))}
    return Draft(_announcement(rng, excerpts), tuple(statement for statement, _ in told.values()), _asked(rng, asked))


def copy(rng: Random, excerpts: Sequence[str]) -> Draft | None:
    """Passages of the haystack to repeat; a single question may also ask for the document's first words, or for the
    words after a phrase."""
    texts = [excerpt.split()[1:-1] for excerpt in excerpts]  # the first and the last may be parts of words
    if min(map(len, texts)) < 10:
        return None
    task = rng.choice(("passage", "start", "after")) if len(texts) == 1 else "passage"
    if task == "passage":
        return _passages(rng, texts)
    (text,) = texts
    passage = " ".join(text)
    stem = rng.choice(phrases.STEMS)
    count = rng.randint(4, min(12, len(text) - 5))
    if task == "start":
        question, announcement = rng.choice(phrases.START_QUESTIONS), rng.choice(phrases.TEXT_FOLLOWS)
        exchange = Exchange(question.format(count=count), stem, " ".join(text[:count]))
        return Draft(announcement, (passage + "\n\n",), (exchange,), at_start=True)
    length = min(rng.randint(5, 8), len(text) - count)
    first = rng.randint(0, len(text) - length - count)
    phrase, answer = (" ".join(part) for part in (text[first : first + length], text[first + length :][:count]))
    exchange = Exchange(rng.choice(phrases.AFTER_QUESTIONS).format(count=count, phrase=phrase), stem, answer)
    return Draft(_announcement(rng, excerpts), (f"\n\n{passage}\n\n",), (exchange,), once=phrase)


def _passages(rng: Random, texts: Sequence[list[str]]) -> Draft:
    """Passages of 10 to 40 words of the texts, each with a label to ask by."""
    passages = [" ".join(text[: rng.randint(10, min(40, len(text)))]) for text in texts]
    stem = rng.choice(phrases.STEMS)
    mark, question = rng.choice(phrases.PASSAGES)
    labels: dict[str, str] = {}
    while len(labels) < len(passages):
        labels.setdefault(made_up.key(rng), passages[len(labels)])
    statements = (f"\n\n{mark}\n\n".format(label=label, passage=passage) for label, passage in labels.items())
    exchanges = (Exchange(question.format(label=label), stem, passage) for label, passage in labels.items())
    return Draft(_announcement(rng, texts), tuple(statements), tuple(exchanges))


def _announcement(rng: Random, asked: Sequence[Any]) -> str:
    return rng.choice(phrases.ANNOUNCEMENTS)[len(asked) > 1]


def _asked(rng: Random, questions: Mapping[str, str]) -> tuple[Exchange, ...]:
    """Make the exchanges of questions by answer, with one stem for all."""
    stem = rng.choice(phrases.STEMS)
    return tuple(Exchange(question, stem, answer) for answer, question in questions.items())


def _distinct(make: Callable[[], str], rng: Random) -> Iterator[tuple[str, str]]:
    """Yield endless pairs of a name and a five-digit number, without repeating either."""
    names: set[str] = set()
    values: set[str] = set()
    while True:
        name, value = make(), made_up.number(rng)
        if name not in names and value not in values:
            names.add(name)
            values.add(value)
            yield name, value


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


_PASSKEY_LINES = [f"{line}." for line in FILLER.strip().rstrip(".").split(". ")]

KINDS = {
    # The lines of the passkey task's filler in random order, so that no two samples are the same.
    "passkey": Kind(passkey, lambda rng: rng.choice(_PASSKEY_LINES)),
    "needle": Kind(needle),
    "key-value": Kind(key_value),
    "multi-needle": Kind(multi_needle),
    "codes": Kind(codes),
    "copy": Kind(copy),
}
