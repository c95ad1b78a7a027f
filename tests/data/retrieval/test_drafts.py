"""Every question can be answered by reading the document, and by nothing else."""

import random
import re
from collections.abc import Iterator

import numpy as np
import pytest

from beacon_lit.data.retrieval import phrases
from beacon_lit.data.retrieval.drafts import KINDS
from beacon_lit.data.sources.synthetic import SyntheticSource
from tests.data.retrieval.making import LENGTHS, prose, runs, samples


def pattern(template: str, **known: str) -> str:
    """A regular expression of a template: what is not known is a group."""
    known = {name: re.escape(value) for name, value in known.items()}
    return re.sub(r"\\{(\w+)\\}", lambda m: known.get(m[1], rf"(?P<{m[1]}>[^.?]+?)"), re.escape(template))


def fact_in(fact: phrases.Fact, text: str, question: str) -> Iterator[str]:
    """Answers to a question of one kind of fact, by the text."""
    for asked in filter(None, (re.fullmatch(pattern(template), question) for template in fact.questions)):
        for template in fact.statements:
            for told in re.finditer(pattern(template, **asked.groupdict()), text):
                yield fact.answer.format(**told.groupdict())


def code_in(statement: str, questions: tuple[str, ...], text: str, question: str) -> Iterator[str]:
    """Codes that a pattern's statements have for what a question names."""
    for asked in filter(None, (re.fullmatch(pattern(template), question) for template in questions)):
        template = pattern(statement.replace("{{", "{").replace("}}", "}"), **asked.groupdict())
        yield from (told["code"] for told in re.finditer(template.replace("[^.?]+?", r"[\w.-]+\w"), text))


def reader(kind: str, text: str, question: str) -> str:
    """Answers by searching the text for what the question names."""
    if kind == "passkey":
        if whose := re.search(r" of [A-Z]\w+ [A-Z]\w+", question):
            (text,) = [statement for statement in text.split("\n\n") if re.search(rf"{whose[0]}\b", statement)]
        return max(set(found := re.findall(r"\d{5}", text)), key=found.count)
    if kind == "needle":
        return next(answer for fact in phrases.FACTS for answer in fact_in(fact, text, question))
    if kind == "key-value":
        (key,) = re.findall(r"\w+-\w+", question)
        (line,) = [line for line in text.split("\n") if re.search(rf"(?<!\w){key}\b", line)]
        return re.search(r"\d{5}", line)[0]
    if kind == "multi-needle":
        names = [m for m in re.findall(r"[A-Z]\w+ [A-Z]\w+", question) if m in text]
        sentences = {n: next(s for s in re.findall(r"[^.]*\.", text) if n in s) for n in names}
        return ", ".join(re.search(r"\d{5}", sentences[name])[0] for name in names)
    if kind == "codes":
        return next(
            code for statement, questions in phrases.CODES for code in code_in(statement, questions, text, question)
        )
    if label := re.search(r"\w+-\w+(?= word by word| exactly| and the next)", question):
        _, _, rest = text.partition(label[0])
        return re.match(r"(?s)\W*(.*?)(>>|\n--- end|\nEnd of quote)", rest)[1]
    count = int(re.search(r"\d+", question)[0])
    phrase = re.search(r'"(.+)"', question)
    rest = text.partition(phrase[1])[2] if phrase else text
    return " ".join(rest.split()[:count])


@pytest.mark.parametrize("questions", [1, (2, 4)])
@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("haystack", [None, prose(1)], ids=["filler", "text"])
def test_every_sample_is_exact_and_can_be_answered_by_reading(any_tokenizer, kind, chat, haystack, questions):
    lengths = LENGTHS if questions == 1 else (3600, 4600)
    source = SyntheticSource(kind, 12, lengths, seed=3, chat=chat, haystack=haystack, questions=questions)
    documents = list(source.documents(any_tokenizer))
    assert len(documents) == 12
    counts = {len(runs(document["answer"])) for document in documents}
    assert counts == ({1} if questions == 1 else {2, 3, 4})
    for document, sample in zip(documents, samples(source, any_tokenizer), strict=True):
        draft, ids = sample.draft, document["input_ids"]
        assert ids.dtype == np.int32 and ids.tolist() == sample.ids
        assert len(ids) == random.Random(f"{kind}/3/{document['id'].split('-')[-1]}/length").randint(*lengths)
        text = any_tokenizer.decode(ids[slice(*sample.document)])
        assert all(text.count(statement.strip()) == 1 for statement in draft.statements)
        around = any_tokenizer.decode(ids[: sample.document[0]]) + any_tokenizer.decode(ids[sample.document[1] :][:-1])
        for exchange, (first, last) in zip(draft.exchanges, runs(document["answer"]), strict=True):
            answered = any_tokenizer.decode(ids[first:last], skip_special_tokens=True)
            assert answered.strip() == exchange.answer
            assert reader(kind, text, exchange.question) == exchange.answer
            assert around.count(exchange.answer) == 1  # only where it is answered: no announcement or question tells it
            assert around.count(exchange.question) == 1
        asked = [around.index(exchange.question) for exchange in draft.exchanges]
        assert asked == sorted(asked)


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_statements_a_document_tells_nothing(tokenizer, kind):
    one, several = SyntheticSource(kind, 10, LENGTHS, seed=8), SyntheticSource(kind, 10, (4000, 4500), questions=3)
    for sample in [*samples(one, tokenizer), *samples(several, tokenizer)]:
        text = tokenizer.decode(sample.ids[slice(*sample.document)])
        for statement in sample.draft.statements:
            text = text.replace(statement.strip(), "")
        for exchange in sample.draft.exchanges:
            try:
                found = reader(kind, text, exchange.question)
            except (LookupError, ValueError, TypeError, StopIteration):
                continue  # the reader finds nothing to look at
            assert found != exchange.answer


def test_every_question_has_a_statement_of_its_own_at_a_random_place(tokenizer):
    orders = set()
    for sample in samples(SyntheticSource("passkey", 60, (1500, 2000), questions=3), tokenizer):
        assert len({exchange.answer for exchange in sample.draft.exchanges}) == 3
        assert len({exchange.question for exchange in sample.draft.exchanges}) == 3
        told = dict(zip(sample.draft.statements, sample.positions, strict=True))
        place = [next(told[text] for text in told if exchange.answer in text) for exchange in sample.draft.exchanges]
        assert len(set(place)) == 3
        orders.add(tuple(np.argsort(place).tolist()))
    assert len(orders) == 6  # questions come in any order


def test_multi_needles_are_asked_for_once_at_most(tokenizer):
    asked_for_one = set()
    for sample in samples(SyntheticSource("multi-needle", 30, (3000, 3500), questions=5), tokenizer):
        values = [value for exchange in sample.draft.exchanges for value in exchange.answer.split(", ")]
        assert len(set(values)) == len(values) <= len(sample.draft.statements)
        asked_for_one |= {"," in exchange.answer for exchange in sample.draft.exchanges}
    assert asked_for_one == {False, True}
