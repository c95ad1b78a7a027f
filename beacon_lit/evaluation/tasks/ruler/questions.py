"""Questions about one or two of many documents: from SQuAD's and HotpotQA's files, or made up in their likeness."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from beacon_lit.data.retrieval import made_up
from beacon_lit.data.retrieval.phrases import FACTS
from beacon_lit.evaluation.tasks.ruler.item import Item
from beacon_lit.evaluation.tasks.ruler.words import distinct

_INSTRUCTION = "Answer the question with the help of the documents. Say the answer and nothing else."
_STEM = "Answer:"


@dataclass(frozen=True)
class Question:
    """What is asked.

    question, answers: any of the answers is right
    documents: those that tell it
    related: others that are shown before any that have nothing to do with it
    """

    question: str
    answers: Sequence[str]
    documents: Sequence[str]
    related: Sequence[str] = ()


@dataclass(frozen=True)
class FromFile:
    """Samples of a file's questions, each among documents of its other ones."""

    questions: Sequence[Question]
    documents: Sequence[str]

    def __call__(self, rng: Random, size: int) -> Item:
        """A sample; its size is the number of documents that do not help."""
        asked = rng.choice(self.questions)
        shown = {*asked.documents, *asked.related}
        drawn = rng.sample(self.documents, min(len(self.documents), size + len(shown)))
        others = rng.sample(asked.related, len(asked.related)) + [text for text in drawn if text not in shown]
        return _item(rng, asked.question, asked.answers, [*asked.documents, *others[:size]])


@dataclass(frozen=True)
class MadeUp:
    """Samples about people that there never were, a document about each.

    hops: 1: asked about one of them, as in SQuAD; 2: about the best friend of one, as in HotpotQA
    """

    hops: int

    def __call__(self, rng: Random, size: int) -> Item:
        """A sample; its size is the number of documents that do not help."""
        names = distinct(lambda: made_up.name(rng), size + self.hops)
        people = [_person(rng, name) for name in names]
        number = rng.choice([i for i in range(len(FACTS)) if i != _FRIEND])
        asked, told = names[0], people[self.hops - 1][number]
        if self.hops == 2:
            people[0][_FRIEND]["friend"] = names[1]
            asked = f"the best friend of {names[0]}"
        question = rng.choice(FACTS[number].questions).format(**{**told, "name": asked})
        documents = [_document(rng, person) for person in people]
        return _item(rng, question, [FACTS[number].answer.format(**told)], documents)


Person = list[dict[str, str]]  # what fills the blanks of each of FACTS
_FRIEND = next(i for i, fact in enumerate(FACTS) if "friend" in fact.blanks)


def _person(rng: Random, name: str) -> Person:
    return [{"name": name, **{blank: make(rng) for blank, make in fact.blanks.items()}} for fact in FACTS]


def _document(rng: Random, person: Person) -> str:
    told = [rng.choice(fact.statements).format(**blanks) for fact, blanks in zip(FACTS, person, strict=True)]
    lines = told + [made_up.sentence(rng) for _ in range(3)]
    rng.shuffle(lines)
    return f"{person[0]['name']}\n{' '.join(lines)}"


def _item(rng: Random, question: str, answers: Sequence[str], documents: list[str]) -> Item:
    rng.shuffle(documents)
    shown = "\n\n".join(f"Document {number}:\n{text}" for number, text in enumerate(documents, 1))
    return Item(f"{_INSTRUCTION}\n\n{shown}\n\n{_INSTRUCTION}\n\nQuestion: {question}", _STEM, answers)


def read_squad(path: str) -> FromFile:
    """The questions of a file of SQuAD, 1.1 or 2.0 (there, those that have an answer)."""
    found = _read(path, "SQuAD", lambda data: [q for article in data["data"] for q in _of_article(article)])
    return _from_file(path, found)


def _of_article(article: Any) -> list[Question]:
    texts = [paragraph["context"] for paragraph in article["paragraphs"]]
    return [
        Question(
            asked["question"],
            [answer["text"] for answer in asked["answers"]],
            [paragraph["context"]],
            [text for text in dict.fromkeys(texts) if text != paragraph["context"]],
        )
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
        if not asked.get("is_impossible", False)
    ]


def read_hotpotqa(path: str) -> FromFile:
    """The questions of a file of HotpotQA, in the distractor setting: all documents that come with one are shown."""
    return _from_file(path, _read(path, "HotpotQA", lambda data: [_of_hotpotqa(record) for record in data]))


def _of_hotpotqa(record: Any) -> Question:
    texts = [f"{title}\n{''.join(sentences)}" for title, sentences in record["context"]]
    return Question(record["question"], [record["answer"]], list(dict.fromkeys(texts)))


def _from_file(path: str, questions: Sequence[Question]) -> FromFile:
    if not questions:
        raise ValueError(f"{path} has no question with an answer")
    texts = dict.fromkeys(text for question in questions for text in (*question.documents, *question.related))
    return FromFile(questions, list(texts))


def _read(path: str, name: str, parse: Callable[[Any], list[Question]]) -> list[Question]:
    try:
        return parse(json.loads(Path(path).expanduser().read_text()))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}; allowed: a file of {name}, or null") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no file of {name}: {error!r}") from error
