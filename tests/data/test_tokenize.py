import logging
from dataclasses import dataclass
from itertools import chain

import pytest

from beacon_lit.data.sample import LengthRule
from beacon_lit.data.tokenize import encode, make_samples, source_samples, subsample

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
LONG = "the quick brown fox jumps over the lazy dog " * 12


@dataclass(frozen=True)
class ListSource:
    documents: list[dict]
    limit: int | None = None
    name: str = "list"

    def __iter__(self):
        return iter(self.documents)


def text(name: str, content: str) -> dict:
    return {"id": name, "text": content}


def chat(name: str, question: str, answer: str) -> dict:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": name, "conversations": messages}


def rule(**settings) -> LengthRule:
    return LengthRule(**({"min_length": 12, "max_length": 64, "window": 8} | settings))


def test_text_ends_once_with_the_end_of_text(tokenizer) -> None:
    eos = tokenizer.eos_token_id
    documents = [text("open", "hello there, how are you?"), text("closed", "hello there, how are you?<|im_end|>")]
    samples, left_out = source_samples(ListSource(documents), tokenizer, rule(min_length=0, window=2))
    assert [sample.id for sample in samples] == ["open", "closed"]
    assert samples[0].input_ids.tolist() == samples[1].input_ids.tolist()
    assert samples[0].input_ids.tolist() == [*tokenizer.encode("hello there, how are you?"), eos]
    assert samples[0].trained.all() and not left_out


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
    samples, left_out = source_samples(ListSource(documents), tokenizer, rule(long="drop", window=20))
    assert [sample.id for sample in samples] == ["kept"]
    assert left_out == {"too_short": 1, "too_long": 2, "no_answer": 1}
    assert tokenizer.decode(samples[0].input_ids[samples[0].trained]) == " over the lazy dog<|im_end|>"


def test_mixed_kinds_keep_their_order_over_many_chunks(tokenizer) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE
    documents = [
        chat(f"c{i}", f"hello {i}", "fine") if i % 3 else text(f"t{i}", f"hello {i}, how are you?") for i in range(100)
    ]
    encoded = list(encode(documents, "list", tokenizer))
    assert [document["id"] for document, _, _ in encoded] == [document["id"] for document in documents]
    for i, (document, ids, mask) in enumerate(encoded):
        assert f"hello {i}" in tokenizer.decode(ids)
        assert (mask is None) == ("text" in document)


def test_split_pieces_are_named_reproducible_and_independent_of_other_documents(tokenizer) -> None:
    alone, _ = source_samples(ListSource([text("a", LONG)]), tokenizer, rule())
    both, _ = source_samples(ListSource([text("b", LONG), text("a", LONG)]), tokenizer, rule())
    pieces = [sample.input_ids.tolist() for sample in alone]
    assert [sample.id for sample in alone] == [f"a#{i}" for i in range(len(alone))]
    assert pieces == [sample.input_ids.tolist() for sample in both if sample.id.startswith("a#")]
    assert pieces != [sample.input_ids.tolist() for sample in both if sample.id.startswith("b#")]
    assert list(chain.from_iterable(pieces)) == [*tokenizer.encode(LONG), tokenizer.eos_token_id]


def test_a_limit_draws_after_the_lengths_are_filtered(tokenizer) -> None:
    documents = [text(f"{i}", "fox " * (20 if i % 2 else 1)) for i in range(40)]
    source = ListSource(documents, limit=5)
    samples, left_out = source_samples(source, tokenizer, rule())
    ids = [sample.id for sample in samples]
    assert len(set(ids)) == 5 and all(int(i) % 2 for i in ids) and ids == sorted(ids, key=int)
    assert left_out == {"too_short": 20, "not_drawn": 15}
    assert ids == [sample.id for sample in source_samples(source, tokenizer, rule())[0]]
    assert ids != [sample.id for sample in source_samples(source, tokenizer, rule(seed=1))[0]]
    assert subsample([1, 2], source, 0) == [1, 2]


def test_counts_are_logged_once_over_all_sources(tokenizer, caplog) -> None:
    caplog.set_level(logging.INFO)
    sources = [ListSource([text("a", LONG), text("b", "fox")]), ListSource([text("c", "fox")])]
    samples = make_samples("train", sources, tokenizer, rule())
    assert len(caplog.messages) == 1
    assert f"train: {len(samples)} samples" in caplog.text and "left out: 2 too_short" in caplog.text


def test_nothing_left_is_an_error_with_the_reasons(tokenizer) -> None:
    with pytest.raises(ValueError, match=r"validation: no text fits min_length=12.*window=8; left out: 1 too_short"):
        make_samples("validation", [ListSource([text("a", "fox")])], tokenizer, rule())


def test_errors_name_the_document(tokenizer) -> None:
    with pytest.raises(ValueError, match=r"books\.json:7: .*no chat template"):
        list(encode([chat("books.json:7", "x", "y")], "list", tokenizer))
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-text token"):
        source_samples(ListSource([text("a", "x")]), tokenizer, rule())
