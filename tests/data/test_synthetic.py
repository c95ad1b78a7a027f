"""Retrieval samples: exact lengths, answers that the text holds once, nothing that depends on more than the seed."""

import random
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from beacon_lit.data.records import BadRecord
from beacon_lit.data.retrieval import words
from beacon_lit.data.retrieval.frame import chat_frame, plain_frame
from beacon_lit.data.retrieval.haystack import made_up_pool, read_pool, shared_pool
from beacon_lit.data.retrieval.kinds import EXCERPT, KINDS, Exchange
from beacon_lit.data.retrieval.tokens import insert, tokens_before
from beacon_lit.data.sample import token_weights
from beacon_lit.data.sources.synthetic import SyntheticSource
from beacon_lit.tiny import byte_tokenizer
from tests.data import families
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
        return ["Texts", [str(record) for record in self.records]]

    def documents(self, tokenizer) -> Iterator:
        yield from self.records


@dataclass(frozen=True)
class Counted(Texts):
    """Texts that note when they are read."""

    reads: list = field(default_factory=list)

    def documents(self, tokenizer) -> Iterator:
        self.reads.append(tokenizer)
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


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last of each run of True, the last exclusive."""
    edges = np.flatnonzero(np.diff(mask.astype(int), prepend=0, append=0))
    return [tuple(edge) for edge in edges.reshape(-1, 2).tolist()]


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
        if whose := re.search(r" of [A-Z]\w+ [A-Z]\w+", question):
            (text,) = [statement for statement in text.split("\n\n") if re.search(rf"{whose[0]}\b", statement)]
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


@pytest.mark.parametrize("kind", KINDS)
def test_statements_are_where_the_sample_says(tokenizer, kind):
    one, several = SyntheticSource(kind, 10, LENGTHS), SyntheticSource(kind, 5, (4000, 4500), questions=3)
    for sample in [*samples(one, tokenizer), *samples(several, tokenizer)]:
        first, last = sample.document
        for statement, position, depth in zip(sample.draft.statements, sample.positions, sample.depths, strict=True):
            size = len(tokenizer(statement)["input_ids"])
            assert tokenizer.decode(sample.ids[position : position + size]) == statement
            assert depth == pytest.approx(100 * (position - first) / (last - first - size))
        assert not sample.draft.at_start or sample.positions == (first,)


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


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_has_as_many_questions_as_fit(tokenizer, kind):
    with pytest.raises(ValueError, match=r"needs at least \d+ tokens .* and questions=2, so") as error:
        next(SyntheticSource(kind, 1, (20, 30), questions=(2, 9)).documents(tokenizer))
    least = int(re.search(r"at least (\d+)", str(error.value))[1])
    short = SyntheticSource(kind, 8, (least, least), questions=(2, 9))
    counts = [len(runs(document["answer"])) for document in short.documents(tokenizer)]
    assert min(counts) >= 2 and np.mean(counts) < 4.5
    long = replace(short, lengths=(8000, 8000), count=20)
    counts = [len(runs(document["answer"])) for document in long.documents(tokenizer)]
    assert counts == [random.Random(f"{kind}/0/{i}/questions").randint(2, 9) for i in range(20)]


def test_one_question_is_asked_unless_more_are_wanted(tokenizer):
    source = SyntheticSource("needle", 3, LENGTHS, haystack=prose(1))
    for same in (1, (1, 1), [1, 1]):
        found = replace(source, questions=same)
        assert found.key() == source.key()
        for a, b in zip(found.documents(tokenizer), source.documents(tokenizer), strict=True):
            assert (a["input_ids"] == b["input_ids"]).all() and len(runs(a["answer"])) == 1


def test_plain_answers_end_in_a_line_break_and_the_last_in_the_end_of_text(any_tokenizer):
    (document,) = SyntheticSource("needle", 1, LENGTHS, questions=3).documents(any_tokenizer)
    answers = [any_tokenizer.decode(document["input_ids"][slice(*span)]) for span in runs(document["answer"])]
    assert all(answer.endswith("\n") and answer.strip() for answer in answers[:-1])
    assert answers[-1].endswith(any_tokenizer.eos_token) and len(answers) == 3


@pytest.mark.parametrize("chat", [False, True])
def test_all_answers_of_a_sample_together_have_their_share_of_its_loss(tokenizer, chat):
    source = SyntheticSource("copy", 5, (2500, 3000), questions=(2, 4), chat=chat)
    for document in source.documents(tokenizer):
        weights = token_weights(document["trained"], document["answer"], source.answer_share)
        assert weights[document["answer"]].sum() == pytest.approx(weights.sum() / 2, rel=1e-5)
        assert len(set(weights[document["answer"]].tolist())) == 1 and set(weights[~document["answer"]].tolist()) == {1}


def test_log_uniform_lengths_double_as_often_everywhere(tokenizer):
    source = SyntheticSource("passkey", 600, (300, 2399), length_distribution="log-uniform")
    lengths = np.array([len(document["input_ids"]) for document in source.documents(tokenizer)])
    assert lengths.min() >= 300 and lengths.max() <= 2399
    doublings = np.histogram(lengths, bins=(300, 600, 1200, 2400))[0]
    assert ((doublings - 200) ** 2 / 200).sum() < 13.8  # chi-squared, 2 degrees: p = 0.001
    uniform = replace(source, length_distribution="uniform").documents(tokenizer)
    flat = np.histogram([len(document["input_ids"]) for document in uniform], bins=(300, 600, 1200, 2400))[0]
    assert ((flat - 200) ** 2 / 200).sum() > 13.8


def test_log_uniform_lengths_reach_both_ends(tokenizer):
    source = SyntheticSource("passkey", 60, (400, 403), length_distribution="log-uniform")
    assert {len(document["input_ids"]) for document in source.documents(tokenizer)} == {400, 401, 402, 403}


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


@pytest.mark.parametrize("questions", [1, 3])
def test_a_chat_is_what_the_template_renders(tokenizer, questions):
    source = SyntheticSource("needle", 5, LENGTHS, chat=True, questions=questions)
    for document, sample in zip(source.documents(tokenizer), samples(source, tokenizer), strict=True):
        ids, body = document["input_ids"], tokenizer.decode(document["input_ids"][slice(*sample.document)])
        messages, said = [], f"{sample.draft.announcement}{body}\n\n"
        for exchange in sample.draft.exchanges:
            messages.append({"role": "user", "content": said + exchange.question})
            messages.append({"role": "assistant", "content": exchange.answer})
            said = ""
        text = tokenizer.decode(ids)
        assert text == tokenizer.apply_chat_template(messages, tokenize=False)
        assert text.endswith("<|im_end|>\n") and not document["answer"][-1]
        answers = [tokenizer.decode(ids[slice(*span)]) for span in runs(document["answer"])]
        assert answers == [f"{exchange.answer}<|im_end|>" for exchange in sample.draft.exchanges]


@pytest.mark.parametrize("questions", [1, 3])
@pytest.mark.parametrize(
    ("make", "template", "end"),
    [
        (families.chatml, families.SMOLLM2, "<|im_end|>"),
        (families.chatml, families.QWEN2_5, "<|im_end|>"),
        (families.chatml, families.QWEN3, "<|im_end|>"),
        (families.llama_3, families.LLAMA_3_1, "<|eot_id|>"),
        (families.deepseek, families.DEEPSEEK_R1, "<eos>"),
    ],
    ids=["smollm2", "qwen2.5", "qwen3", "llama-3.1", "deepseek"],
)
def test_a_chat_of_any_family_is_asked_and_answered_in_turns(make, template, end, questions):
    tokenizer = make()
    tokenizer.chat_template = template
    exchanges = [Exchange(f"How many are there of x{i}?", "Stem:", f"all {i} fine") for i in range(questions)]
    around = chat_frame(tokenizer).around("Let me see:\n\n", exchanges)
    said, messages = "Let me see:\n\nDOCUMENT\n\n", []
    for exchange in exchanges:
        messages.append({"role": "user", "content": said + exchange.question})
        messages.append({"role": "assistant", "content": exchange.answer})
        said = ""
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(around.opening) + "DOCUMENT" + tokenizer.decode(around.closing) == rendered
    answers = [tokenizer.decode(around.closing[slice(*span)]) for span in runs(around.answers)]
    assert answers == [f"{exchange.answer}{end}" for exchange in exchanges]


@pytest.mark.parametrize("train_on", ["answer", "all"])
def test_what_a_template_puts_around_an_answer_is_trained_only_with_all_else(train_on):
    tokenizer = byte_tokenizer()
    content = "{{ message.content }}"
    thinking = "{% if message.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}" + content
    tokenizer.chat_template = tokenizer.chat_template.replace(content, thinking)
    source = SyntheticSource("passkey", 1, LENGTHS, chat=True, train_on=train_on, questions=2)
    (document,) = source.documents(tokenizer)
    ids, text = document["input_ids"], tokenizer.decode(document["input_ids"])
    answers = [tokenizer.decode(ids[slice(*span)]) for span in runs(document["answer"])]
    assert all(re.fullmatch(r"\d{5}<\|im_end\|>", answer) for answer in answers) and len(answers) == 2
    assert text.count("<think>") == 1 and text.endswith(f"<think>\n\n</think>\n\n{answers[1]}\n")
    assert (document["trained"] == (document["answer"] | (train_on == "all"))).all()


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
        assert re.search(r"\w+-\w+", sample.draft.exchanges[0].question)
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


def test_sources_of_one_haystack_read_it_once(tokenizer):
    bad = BadRecord("invalid_json", "a.jsonl, line 3", "no JSON")
    haystack = Counted((bad, *prose(7).records), reads=[])
    first, *again = [run(shared_pool(haystack, tokenizer, seed=0)) for _ in range(3)]
    assert len(haystack.reads) == 1 and all(pool is first[0] and found == [bad] for pool, found in again)
    alone = run(read_pool(haystack, tokenizer, seed=0))
    assert (alone[0].ids == first[0].ids).all() and alone[1] == first[1] == [bad]
    haystack.reads.clear()
    other = fakes.byte_tokenizer()
    for source, of, seed in [(haystack, tokenizer, 1), (haystack, other, 0), (replace(haystack, records=()), other, 0)]:
        pool, _ = run(shared_pool(source, of, seed))
        assert pool is not first[0]
    assert len(haystack.reads) == 3
    run(shared_pool(haystack, tokenizer, seed=0))
    assert len(haystack.reads) == 4  # two pools are kept, no more


def test_a_haystack_that_is_read_in_part_is_read_again(tokenizer):
    bad = BadRecord("invalid_json", "a.jsonl, line 3", "no JSON")
    haystack = Counted((bad, *prose(8).records), reads=[])
    assert next(shared_pool(haystack, tokenizer, seed=0)) is bad
    pool, found = run(shared_pool(haystack, tokenizer, seed=0))
    assert len(pool) and found == [bad] and len(haystack.reads) == 2


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
    assert source.lengths == (600, 700) and source.key()[2] == prose(1).key() != prose(2).key()
    changes = [dict(kind="copy"), dict(count=3), dict(lengths=(600, 701)), dict(seed=1), dict(chat=True)]
    changes += [dict(questions=2), dict(questions=(1, 2)), dict(length_distribution="log-uniform")]
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
        (dict(lengths=(0, 5)), "lengths=0 must be an integer, at least 1"),
        (dict(questions=0), "questions=0 must be an integer, at least 1"),
        (dict(questions="many"), "questions='many' must be an integer, at least 1"),
        (dict(questions=[1, 2, 3]), r"questions=\[1, 2, 3\] must be two numbers: the least and the most"),
        (dict(questions=(3, 2)), r"questions=\(3, 2\): the least must not be above the most"),
        (dict(length_distribution="normal"), "length_distribution='normal' must be one of uniform, log-uniform"),
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
    with pytest.raises(ValueError, match="does not write every message once"):
        chat_frame(bare)


def test_statements_are_inserted_in_the_order_of_their_places():
    assert insert([1, 2, 3], [[7], [8, 8], [9]], [2, 0, 2]) == ([8, 8, 1, 2, 7, 9, 3], [4, 0, 5])
    assert insert([], [[7]], [0]) == ([7], [0])


def test_a_blank_stays_with_the_token_that_holds_it(any_tokenizer):
    ids = any_tokenizer("It is 12345", add_special_tokens=False)["input_ids"]
    cut = tokens_before(any_tokenizer, "It is ", ids)
    assert any_tokenizer.decode(ids[cut:]).strip() == "12345"
