"""Settings of synthetic retrieval data: lengths, masks, keys, errors."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from beacon_lit.data.records import MalformedRecord, SkippedRecords, Tolerance, read_documents
from beacon_lit.data.retrieval.drafts import EXCERPT, KINDS
from beacon_lit.data.retrieval.prompt_format import chat_format
from beacon_lit.data.sample import token_weights
from beacon_lit.data.sources.synthetic import SyntheticSource
from beacon_lit.tiny import byte_tokenizer
from tests.data.retrieval.making import LENGTHS, Texts, prose, runs


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def test_one_question_is_asked_unless_more_are_wanted(tokenizer):
    source = SyntheticSource("needle", 3, LENGTHS, haystack=prose(1))
    for same in (1, (1, 1), [1, 1]):
        found = replace(source, questions=same)
        assert found.key() == source.key()
        for a, b in zip(found.documents(tokenizer), source.documents(tokenizer), strict=True):
            assert (a["input_ids"] == b["input_ids"]).all() and len(runs(a["answer"])) == 1


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


def test_what_is_trained_is_a_choice(tokenizer):
    (answer,) = SyntheticSource("passkey", 1, LENGTHS, train_on="answer").documents(tokenizer)
    (everything,) = SyntheticSource("passkey", 1, LENGTHS).documents(tokenizer)
    assert (answer["input_ids"] == everything["input_ids"]).all()
    assert (answer["trained"] == answer["answer"]).all() and answer["answer"].sum() == 6  # five digits and the end
    assert everything["trained"].all() and (everything["answer"] == answer["answer"]).all()


def test_malformed_records_of_the_haystack_come_through(tokenizer):
    bad = MalformedRecord("invalid_json", "a.jsonl, line 3", "no JSON")
    haystack = Texts((bad, *prose(1).records))
    first, *rest = SyntheticSource("needle", 2, LENGTHS, haystack=haystack).documents(tokenizer)
    assert first == bad and len(rest) == 2


def test_malformed_records_of_a_haystack_are_a_share_of_its_records(tokenizer):
    bad = MalformedRecord("invalid_json", "a.jsonl, line 3", "no JSON")
    haystack = Texts((*prose(1).records, *[{"id": "a", "text": "x"}] * 12_900, *[bad] * 120))
    source = SyntheticSource("needle", 2, LENGTHS, haystack=haystack)
    skipped = SkippedRecords(Tolerance(), source.name, Counter(), log=False)
    assert len(list(read_documents(source, tokenizer, skipped))) == 2
    assert skipped.total == 120 and skipped.read == len(haystack.records) + 2


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
        (dict(kind="riddle"), "kind='riddle' must be one of passkey, needle, key-value, multi-needle, codes, copy"),
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
        chat_format(bare)
