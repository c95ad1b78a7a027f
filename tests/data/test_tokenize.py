"""Documents become samples of the right lengths and weights; what does not is counted."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest

from beacon_lit.data.length_rule import LengthRule
from beacon_lit.data.records import SkippedRecords, Tolerance
from beacon_lit.data.sample import Sample
from beacon_lit.data.tokenize import make_samples, tokenize_documents

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
LONG = "the quick brown fox jumps over the lazy dog " * 12


def text(name: str, content: str) -> dict:
    return {"id": name, "text": content}


def chat(name: str, question: str, answer: str) -> dict:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": name, "conversations": messages}


def rule(**settings) -> LengthRule:
    return LengthRule(**({"min_length": 12, "max_length": 64, "window": 8} | settings))


def samples_of(documents: list[dict], tokenizer, of: LengthRule, **options) -> tuple[list[Sample], Counter]:
    bad = none_bad()
    return list(make_samples(documents, tokenizer, of, bad, **options)), bad.counts


def none_bad() -> SkippedRecords:
    return SkippedRecords(Tolerance(strict=True), "list", Counter())


def test_text_ends_once_with_the_end_of_text(tokenizer) -> None:
    eos = tokenizer.eos_token_id
    documents = [text("open", "hello there, how are you?"), text("closed", "hello there, how are you?<|im_end|>")]
    samples, left_out = samples_of(documents, tokenizer, rule(min_length=0, window=2))
    assert [sample.id for sample in samples] == ["open", "closed"]
    assert samples[0].input_ids.tolist() == samples[1].input_ids.tolist()
    assert samples[0].input_ids.tolist() == [*tokenizer.encode("hello there, how are you?"), eos]
    assert (samples[0].weights == 1).all() and not left_out


def test_everything_left_out_is_counted_by_reason(tokenizer) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE
    documents = [
        text("short", "fox"),
        text("long", LONG),
        chat("no answer behind the window", "x", ""),
        chat("too long", LONG, "yes"),
        chat("kept", "the quick brown fox jumps over the lazy dog", "over the lazy dog"),
    ]
    documents[2]["conversations"].append({"role": "user", "content": "how are you? fine! the quick brown fox"})
    samples, left_out = samples_of(documents, tokenizer, rule(long="drop", window=20))
    assert [sample.id for sample in samples] == ["kept"]
    assert left_out == {"too_short": 1, "too_long": 2, "no_answer": 1}
    assert tokenizer.decode(samples[0].input_ids[samples[0].weights > 0]) == " over the lazy dog<|im_end|>"


def test_mixed_kinds_keep_their_order_over_many_chunks(tokenizer) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE
    documents = [
        chat(f"c{i}", f"hello {i}", "fine") if i % 3 else text(f"t{i}", f"hello {i}, how are you?") for i in range(600)
    ]
    documents[7] = {"id": "r7", "input_ids": np.array(tokenizer.encode("hello 7"), np.int32)}
    encoded = list(tokenize_documents(documents, tokenizer, none_bad()))
    assert [found.document["id"] for found in encoded] == [document["id"] for document in documents]
    for i, (document, ids, trained, _) in enumerate(encoded):
        assert f"hello {i}" in tokenizer.decode(ids)
        assert (trained is None) == ("text" in document)


def test_ready_tokens_keep_their_masks(tokenizer) -> None:
    ids, trained, answer = np.arange(20, dtype=np.int32), np.arange(20) > 4, np.arange(20) > 17
    documents = [{"id": "r", "input_ids": ids, "trained": trained, "answer": answer}, {"id": "all", "input_ids": ids}]
    (masked, whole), _ = samples_of(documents, tokenizer, rule(), answer_share=0.5)
    assert masked.weights.tolist() == [0] * 5 + [1] * 13 + [6.5] * 2 and (whole.weights == 1).all()
    with pytest.raises(ValueError, match="bad: token id 100000"):
        samples_of([{"id": "bad", "input_ids": np.full(20, 100_000)}], tokenizer, rule())


def test_split_pieces_are_named_reproducible_and_independent_of_other_documents(tokenizer) -> None:
    alone, _ = samples_of([text("a", LONG)], tokenizer, rule())
    both, _ = samples_of([text("b", LONG), text("a", LONG)], tokenizer, rule())
    pieces = [sample.input_ids.tolist() for sample in alone]
    assert [sample.id for sample in alone] == [f"a#{i}" for i in range(len(alone))]
    assert pieces == [sample.input_ids.tolist() for sample in both if sample.id.startswith("a#")]
    assert pieces != [sample.input_ids.tolist() for sample in both if sample.id.startswith("b#")]
    assert list(chain.from_iterable(pieces)) == [*tokenizer.encode(LONG), tokenizer.eos_token_id]


def test_errors_name_the_document(tokenizer) -> None:
    with pytest.raises(ValueError, match="template=None needs a chat template"):
        list(tokenize_documents([chat("books.json:7", "x", "y")], tokenizer, none_bad()))
    tokenizer.chat_template = "{{ raise_exception('no roles') }}"
    with pytest.raises(ValueError, match=r"books\.json:7: .*no roles"):
        list(tokenize_documents([chat("books.json:7", "x", "y")], tokenizer, none_bad()))
    bad = SkippedRecords(Tolerance(), "list", Counter())
    assert not list(tokenize_documents([chat("a", "x", "y")], tokenizer, bad)) and bad.counts == {"template": 1}
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-text token"):
        samples_of([text("a", "x")], tokenizer, rule())
