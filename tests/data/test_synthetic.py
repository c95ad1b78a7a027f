"""Retrieval samples: exact lengths, answers that the text holds once, nothing that depends on more than the seed."""

import random
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from beacon_lit.data.records import BadRecord
from beacon_lit.data.retrieval import words
from beacon_lit.data.retrieval.frame import chat_frame, plain_frame
from beacon_lit.data.retrieval.haystack import made_up_pool, read_pool
from beacon_lit.data.retrieval.kinds import EXCERPT, KINDS
from beacon_lit.data.retrieval.tokens import insert, tokens_before
from beacon_lit.data.sources.synthetic import SyntheticSource
from beacon_lit.tiny import byte_tokenizer
from tests.evaluation import fakes

LENGTHS = (1200, 1700)


@dataclass(frozen=True)
class Texts:
    """A source of given records."""

    records: tuple
    name: str = "texts"
    limit: int | None = None
    weight: float | None = None
    answer_share: float | None = None

    def key(self):
        return ["Texts", len(self.records)]

    def documents(self, tokenizer) -> Iterator:
        yield from self.records


def prose(seed: int, count: int = 40) -> Texts:
    rng = random.Random(seed)
    texts = (" ".join(words.sentence(rng) for _ in range(30)) for _ in range(count))
    return Texts(tuple({"id": str(i), "text": text} for i, text in enumerate(texts)))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return byte_tokenizer()


@pytest.fixture(scope="module", params=["bytes", "merges"])
def any_tokenizer(request) -> PreTrainedTokenizerBase:
    """One token per byte; or merged ones, with a bos before every text."""
    if request.param == "bytes":
        return byte_tokenizer()
    tokenizer = fakes.byte_tokenizer()
    tokenizer.chat_template = byte_tokenizer().chat_template
    tokenizer.add_special_tokens({"eos_token": "</s>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


def run(generator):
    """What a generator returns, and what it yields."""
    found = []
    while True:
        try:
            found.append(next(generator))
        except StopIteration as stop:
            return stop.value, found


def samples(source: SyntheticSource, tokenizer) -> list:
    frame = source.frame(tokenizer)
    pool, _ = run(source.pool(tokenizer))
    return [source.sample(frame, pool, index) for index in range(source.count)]


def pattern(template: str, **known: str) -> str:
    """A regular expression of a template: what is not known is a group."""
    known = {name: re.escape(value) for name, value in known.items()}
    return re.sub(r"\\{(\w+)\\}", lambda m: known.get(m[1], rf"(?P<{m[1]}>[^.?]+?)"), re.escape(template))


def fact_in(fact: words.Fact, text: str, question: str) -> Iterator[str]:
    """Answers to a question of one kind of fact, by the text."""
    for asked in filter(None, (re.fullmatch(pattern(template), question) for template in fact.questions)):
        for template in fact.statements:
            for told in re.finditer(pattern(template, **asked.groupdict()), text):
                yield fact.answer.format(**told.groupdict())


def reader(kind: str, text: str, question: str) -> str:
    """Answers by searching the text for what the question names."""
    if kind == "passkey":
        return max(set(found := re.findall(r"\d{5}", text)), key=found.count)
    if kind == "needle":
        return next(answer for fact in words.FACTS for answer in fact_in(fact, text, question))
    if kind == "key-value":
        (key,) = re.findall(r"\w+-\w+", question)
        (line,) = [line for line in text.split("\n") if re.search(rf"(?<!\w){key}\b", line)]
        return re.search(r"\d{5}", line)[0]
    if kind == "multi-needle":
        names = [m for m in re.findall(r"[A-Z]\w+ [A-Z]\w+", question) if m in text]
        sentences = {n: next(s for s in re.findall(r"[^.]*\.", text) if n in s) for n in names}
        return ", ".join(re.search(r"\d{5}", sentences[name])[0] for name in names)
    if label := re.search(r"\w+-\w+(?= word by word| exactly| and the next)", question):
        _, _, rest = text.partition(label[0])
        return re.match(r"(?s)\W*(.*?)(>>|\n--- end|\nEnd of quote)", rest)[1]
    count = int(re.search(r"\d+", question)[0])
    phrase = re.search(r'"(.+)"', question)
    rest = text.partition(phrase[1])[2] if phrase else text
    return " ".join(rest.split()[:count])


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("haystack", [None, prose(1)], ids=["filler", "text"])
def test_every_sample_is_exact_and_can_be_answered_by_reading(any_tokenizer, kind, chat, haystack):
    source = SyntheticSource(kind, 25, LENGTHS, seed=3, chat=chat, haystack=haystack)
    documents = list(source.documents(any_tokenizer))
    assert len(documents) == 25
    for document, sample in zip(documents, samples(source, any_tokenizer), strict=True):
        draft, ids = sample.draft, document["input_ids"]
        assert ids.dtype == np.int32 and ids.tolist() == sample.ids
        assert len(ids) == random.Random(f"{kind}/3/{document['id'].split('-')[-1]}/length").randint(*LENGTHS)
        answer = any_tokenizer.decode(ids[document["answer"]], skip_special_tokens=True)
        assert answer.strip() == draft.answer
        text = any_tokenizer.decode(ids[slice(*sample.document)])
        assert all(text.count(statement.strip()) == 1 for statement in draft.statements)
        assert reader(kind, text, draft.question) == draft.answer
        before = any_tokenizer.decode(ids[: sample.document[0]]) + any_tokenizer.decode(ids[sample.document[1] :][:-1])
        assert before.count(draft.answer) == 1  # only where it is answered: neither announcement nor question tells it
        assert any_tokenizer.decode(ids[sample.document[1] :]).count(draft.question) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_statements_a_document_tells_nothing(tokenizer, kind):
    for sample in samples(SyntheticSource(kind, 10, LENGTHS, seed=8), tokenizer):
        text = tokenizer.decode(sample.ids[slice(*sample.document)])
        for statement in sample.draft.statements:
            text = text.replace(statement.strip(), "")
        try:
            found = reader(kind, text, sample.draft.question)
        except (LookupError, ValueError, TypeError, StopIteration):
            continue  # the reader finds nothing to look at
        assert found != sample.draft.answer


@pytest.mark.parametrize("kind", KINDS)
def test_statements_are_where_the_sample_says(tokenizer, kind):
    for sample in samples(SyntheticSource(kind, 10, LENGTHS), tokenizer):
        first, last = sample.document
        for statement, position, depth in zip(sample.draft.statements, sample.positions, sample.depths, strict=True):
            size = len(tokenizer(statement)["input_ids"])
            assert tokenizer.decode(sample.ids[position : position + size]) == statement
            assert depth == pytest.approx(100 * (position - first) / (last - first - size))
        assert not sample.draft.at_start or sample.positions == (first,)


def test_depths_and_lengths_are_uniform(tokenizer):
    found = samples(SyntheticSource("passkey", 600, (300, 555)), tokenizer)
    lengths = np.array([len(sample.ids) for sample in found])
    assert lengths.min() >= 300 and lengths.max() <= 555 and {300, 555} <= set(lengths.tolist())
    modulo = np.bincount(lengths % 32, minlength=32)  # the range is 8 times 32: 18.75 each
    assert modulo.min() > 3 and ((modulo - 18.75) ** 2 / 18.75).sum() < 62  # chi-squared, 31 degrees: p = 0.001
    depths = np.array([sample.depths[0] for sample in samples(SyntheticSource("passkey", 300, (900, 1500)), tokenizer)])
    quarters = np.histogram(depths, bins=4, range=(0, 100))[0]
    assert ((quarters - 75) ** 2 / 75).sum() < 16.3  # 3 degrees: p = 0.001


def test_nothing_depends_on_anything_but_the_seed_and_the_number(tokenizer):
    source = SyntheticSource("needle", 12, LENGTHS, seed=5, haystack=prose(2))
    before = random.getstate(), np.random.get_state()[1].tolist()
    first, again = list(source.documents(tokenizer)), list(source.documents(tokenizer))
    fewer = list(replace(source, count=4).documents(tokenizer))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    for a, b in [*zip(first, again, strict=True), *zip(first[:4], fewer, strict=True)]:
        assert a["id"] == b["id"] and all((a[k] == b[k]).all() for k in ("input_ids", "trained", "answer"))


@pytest.mark.parametrize("kind", KINDS)
def test_other_seeds_make_other_samples(tokenizer, kind):
    seen = set()
    for seed in range(4):
        documents = SyntheticSource(kind, 15, (1300, 1300), seed=seed).documents(tokenizer)
        seen |= {document["input_ids"].tobytes() for document in documents}
    assert len(seen) == 60


def test_what_is_trained_is_a_choice(tokenizer):
    (answer,) = SyntheticSource("passkey", 1, LENGTHS, train_on="answer").documents(tokenizer)
    (everything,) = SyntheticSource("passkey", 1, LENGTHS).documents(tokenizer)
    assert (answer["input_ids"] == everything["input_ids"]).all()
    assert (answer["trained"] == answer["answer"]).all() and answer["answer"].sum() == 6  # five digits and the end
    assert everything["trained"].all() and (everything["answer"] == answer["answer"]).all()


def test_a_chat_is_what_the_template_renders(tokenizer):
    source = SyntheticSource("needle", 5, LENGTHS, chat=True)
    for document, sample in zip(source.documents(tokenizer), samples(source, tokenizer), strict=True):
        body = tokenizer.decode(document["input_ids"][slice(*sample.document)])
        said = f"{sample.draft.announcement}{body}\n\n{sample.draft.question}"
        messages = [{"role": "user", "content": said}, {"role": "assistant", "content": sample.draft.answer}]
        text = tokenizer.decode(document["input_ids"])
        assert text == tokenizer.apply_chat_template(messages, tokenize=False)
        assert tokenizer.decode(document["input_ids"][document["answer"]]) == f"{sample.draft.answer}<|im_end|>"
        assert text.endswith("<|im_end|>\n") and not document["trained"][-1]


def test_thinking_that_a_template_puts_before_the_answer_is_not_trained(tokenizer):
    tokenizer = byte_tokenizer()
    content = "{{ message.content }}"
    thinking = "{% if message.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}" + content
    tokenizer.chat_template = tokenizer.chat_template.replace(content, thinking)
    (document,) = SyntheticSource("passkey", 1, LENGTHS, chat=True).documents(tokenizer)
    text = tokenizer.decode(document["input_ids"])
    key = tokenizer.decode(document["input_ids"][document["trained"]])
    assert re.fullmatch(r"\d{5}<\|im_end\|>", key) and text.endswith(f"<think>\n\n</think>\n\n{key}\n")


def test_plain_text_starts_with_bos_where_the_tokenizer_puts_one(any_tokenizer):
    frame = plain_frame(any_tokenizer)
    (document,) = SyntheticSource("needle", 1, LENGTHS).documents(any_tokenizer)
    put = any_tokenizer("")["input_ids"][:1] == [any_tokenizer.bos_token_id]
    assert frame.prefix == ((any_tokenizer.bos_token_id,) if put else ())
    assert (document["input_ids"][0] == any_tokenizer.bos_token_id) == put
    assert document["input_ids"][-1] == any_tokenizer.eos_token_id


def test_a_haystack_that_says_it_already_is_avoided(tokenizer):
    line = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen. " * 200
    source = SyntheticSource("copy", 12, LENGTHS, haystack=Texts(({"id": "0", "text": line},)))
    for sample in samples(source, tokenizer):  # its words are everywhere, so only passages with a label can be told
        assert re.search(r"\w+-\w+", sample.draft.question)
    wordless = Texts(({"id": "0", "text": "x" * 5000},))
    with pytest.raises(ValueError, match=r"copy in texts, sample 0: no sample of \d+ tokens .* has too few words"):
        list(replace(source, haystack=wordless).documents(tokenizer))


def test_the_pool_is_a_bounded_random_part_of_the_haystack(tokenizer):
    documents = [{"id": str(i), "text": f"<{i:05d}>" * 100} for i in range(20_000)]  # 14 MB
    tracemalloc.start()
    pool, bad = run(read_pool(Texts(tuple(documents)), tokenizer, seed=0, characters=70_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    kept = sorted({int(number) for number in re.findall(r"\d{5}", tokenizer.decode(pool.ids))})
    assert not bad and len(kept) == 100 and len(pool) == 100 * 702
    assert kept[0] < 2000 and kept[-1] > 18_000 and 7000 < np.mean(kept) < 13_000  # from all over the file
    assert peak < 8_000_000
    long = Texts(({"id": "0", "text": "word " * 50_000},))
    assert 900 < len(run(read_pool(long, tokenizer, 0, characters=16_000))[0]) <= 1002


def test_the_pool_is_a_ring(tokenizer):
    pool = made_up_pool(words.sentence, tokenizer, seed=0, tokens=500)
    assert len(pool) >= 500 and pool.cut(len(pool) - 2, 4) == [*pool.ids[-2:].tolist(), *pool.ids[:2].tolist()]


def test_bad_records_of_the_haystack_come_through(tokenizer):
    bad = BadRecord("invalid_json", "a.jsonl, line 3", "no JSON")
    haystack = Texts((bad, *prose(1).records))
    first, *rest = SyntheticSource("needle", 2, LENGTHS, haystack=haystack).documents(tokenizer)
    assert first is bad and len(rest) == 2


def test_key_tells_what_the_documents_depend_on():
    source = SyntheticSource("needle", 2, [600, 700], haystack=prose(1))
    assert source.lengths == (600, 700) and source.key()[2] == ["Texts", 40]
    changes = [dict(kind="copy"), dict(count=3), dict(lengths=(600, 701)), dict(seed=1), dict(chat=True)]
    for change in [*changes, dict(train_on="answer"), dict(haystack=None)]:
        assert replace(source, **change).key() != source.key(), change
    assert replace(source, weight=2.0, limit=1).key() == source.key()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(kind="riddle"), "kind='riddle' must be one of passkey, needle, key-value, multi-needle, copy"),
        (dict(train_on="none"), "train_on='none' must be one of answer, all"),
        (dict(count=0), "count=0 must be an integer, at least 1"),
        (dict(lengths=(5,)), r"lengths=\(5,\) must be two numbers"),
        (dict(lengths=(700, 600)), r"lengths=\(700, 600\): the least must not be above"),
        (dict(seed=-1), "seed=-1 must be an integer, at least 0"),
        (dict(weight=0), "weight=0 must be a number above 0"),
        (dict(answer_share=1.5), "answer_share=1.5 must be above 0 and at most 1"),
        (dict(limit=0), "limit=0 must be an integer, at least 1"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        SyntheticSource(**{"kind": "passkey", "count": 1, "lengths": LENGTHS} | change)


@pytest.mark.parametrize("kind", KINDS)
def test_too_short_a_length_tells_the_least_that_works(tokenizer, kind):
    source = SyntheticSource(kind, 60, (20, 1000))
    with pytest.raises(ValueError, match=rf"lengths=\(20, 1000\): {kind} needs at least \d+ tokens") as error:
        next(source.documents(tokenizer))
    least = int(re.search(r"at least (\d+)", str(error.value))[1])
    found = list(replace(source, lengths=(least, least)).documents(tokenizer))
    assert len(found) == 60 and {len(document["input_ids"]) for document in found} == {least}
    with pytest.raises(ValueError, match="needs at least"):
        next(replace(source, lengths=(least - 1, 1000)).documents(tokenizer))


def test_bad_haystacks_and_tokenizers_are_named(tokenizer):
    short = Texts(({"id": "0", "text": "too little " * 9},))
    with pytest.raises(
        ValueError, match=rf"haystack=texts is too short: 101 tokens; must be at least 1,{700 + EXCERPT}"
    ):
        next(SyntheticSource("needle", 1, LENGTHS, haystack=short).documents(tokenizer))
    chats = Texts(({"id": "7", "conversations": []},))
    with pytest.raises(ValueError, match="haystack=texts must be a source of text; its document 7 has none, but conv"):
        next(SyntheticSource("needle", 1, LENGTHS, haystack=chats).documents(tokenizer))
    bare = byte_tokenizer()
    bare.chat_template = None
    with pytest.raises(ValueError, match=r"chat=True: the tokenizer .* has no chat template"):
        next(SyntheticSource("needle", 1, LENGTHS, chat=True).documents(bare))
    bare.eos_token = None
    with pytest.raises(ValueError, match="has no end-of-text token"):
        next(SyntheticSource("needle", 1, LENGTHS).documents(bare))
    bare.chat_template = "nothing of what is said"
    with pytest.raises(ValueError, match="must render user and assistant"):
        chat_frame(bare)


def test_statements_are_inserted_in_the_order_of_their_places():
    assert insert([1, 2, 3], [[7], [8, 8], [9]], [2, 0, 2]) == ([8, 8, 1, 2, 7, 9, 3], [4, 0, 5])
    assert insert([], [[7]], [0]) == ([7], [0])


def test_a_blank_stays_with_the_token_that_holds_it(any_tokenizer):
    ids = any_tokenizer("It is 12345", add_special_tokens=False)["input_ids"]
    cut = tokens_before(any_tokenizer, "It is ", ids)
    assert any_tokenizer.decode(ids[cut:]).strip() == "12345"
