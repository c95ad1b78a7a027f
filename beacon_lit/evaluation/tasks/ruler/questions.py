"""Questions about one or two of many documents: from files of SQuAD and HotpotQA, or made up like these."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from beacon_lit.data.retrieval import made_up
from beacon_lit.data.retrieval.phrases import FACTS
from beacon_lit.evaluation.tasks.ruler.sample import RulerSample
from beacon_lit.evaluation.tasks.ruler.words import distinct

_INSTRUCTION = "Answer the question with the help of the documents. Say the answer and nothing else."
_STEM = "Answer:"


@dataclass(frozen=True)
class Question:
    """A question of a file.

    Attributes:
        question: the question.
        answers: reference answers, any of which is right.
        documents: documents that have the answer.
        related: related documents, which are preferred to others as distractors.
    """

    question: str
    answers: Sequence[str]
    documents: Sequence[str]
    related: Sequence[str] = ()


@dataclass(frozen=True)
class FileQuestions:
    """Makes samples from the questions of a file, with the documents of other questions as distractors.

    Attributes:
        questions: all questions.
        documents: all documents.
    """

    questions: Sequence[Question]
    documents: Sequence[str]

    def __call__(self, rng: Random, size: int) -> RulerSample:
        """Make a sample whose size is the number of distractors."""
        asked = rng.choice(self.questions)
        shown = {*asked.documents, *asked.related}
        drawn = rng.sample(self.documents, min(len(self.documents), size + len(shown)))
        others = rng.sample(asked.related, len(asked.related)) + [text for text in drawn if text not in shown]
        return _sample(rng, asked.question, asked.answers, [*asked.documents, *others[:size]])


@dataclass(frozen=True)
class MadeUpQuestions:
    """Makes samples about made-up people, with one document about each.

    Attributes:
        hops: 1 for a question about one of them, as in SQuAD; 2 for one about somebody's best friend, as in HotpotQA.
    """

    hops: int

    def __call__(self, rng: Random, size: int) -> RulerSample:
        """Make a sample whose size is the number of distractors."""
        names = distinct(lambda: made_up.name(rng), size + self.hops)
        people = [_person(rng, name) for name in names]
        number = rng.choice([i for i in range(len(FACTS)) if i != _FRIEND])
        asked, told = names[0], people[self.hops - 1][number]
        if self.hops == 2:
            people[0][_FRIEND]["friend"] = names[1]
            asked = f"the best friend of {names[0]}"
        question = rng.choice(FACTS[number].questions).format(**{**told, "name": asked})
        documents = [_document(rng, person) for person in people]
        return _sample(rng, question, [FACTS[number].answer.format(**told)], documents)


Person = list[dict[str, str]]  # values for the blanks of each of FACTS
_FRIEND = next(i for i, fact in enumerate(FACTS) if "friend" in fact.blanks)


def _person(rng: Random, name: str) -> Person:
    return [{"name": name, **{blank: make(rng) for blank, make in fact.blanks.items()}} for fact in FACTS]


def _document(rng: Random, person: Person) -> str:
    told = [rng.choice(fact.statements).format(**blanks) for fact, blanks in zip(FACTS, person, strict=True)]
    lines = told + [made_up.sentence(rng) for _ in range(3)]
    rng.shuffle(lines)
    return f"{person[0]['name']}\n{' '.join(lines)}"


def _sample(rng: Random, question: str, answers: Sequence[str], documents: list[str]) -> RulerSample:
    rng.shuffle(documents)
    shown = "\n\n".join(f"Document {number}:\n{text}" for number, text in enumerate(documents, 1))
    return RulerSample(f"{_INSTRUCTION}\n\n{shown}\n\n{_INSTRUCTION}\n\nQuestion: {question}", _STEM, answers)


def read_squad(path: str) -> FileQuestions:
    """Read a file of SQuAD, 1.1 or 2.0; of the latter the questions with an answer."""
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


def read_hotpotqa(path: str) -> FileQuestions:
    """Read a file of HotpotQA in the distractor setting; all documents of a question are shown with it."""
    return _from_file(path, _read(path, "HotpotQA", lambda data: [_of_hotpotqa(record) for record in data]))


def _of_hotpotqa(record: Any) -> Question:
    texts = [f"{title}\n{''.join(sentences)}" for title, sentences in record["context"]]
    return Question(record["question"], [record["answer"]], list(dict.fromkeys(texts)))


def _from_file(path: str, questions: Sequence[Question]) -> FileQuestions:
    if not questions:
        raise ValueError(f"{path} has no question with an answer; allowed: a file that has one, or null")
    texts = dict.fromkeys(text for question in questions for text in (*question.documents, *question.related))
    return FileQuestions(questions, list(texts))


def _read(path: str, name: str, parse: Callable[[Any], list[Question]]) -> list[Question]:
    try:
        return parse(json.loads(Path(path).expanduser().read_text()))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}; allowed: a file of {name}, or null") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a file of {name}: {error!r}; allowed: a file of {name}, or null") from error
