"""A chat's cache has read what the template makes of the conversation; it answers as if it had read it at once."""

import re
from collections.abc import Callable
from dataclasses import replace
from threading import Thread
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LogitsProcessor, LogitsProcessorList, TextIteratorStreamer, TextStreamer, pipeline

from beacon_lit import BeaconChat, BeaconConfig, BeaconLM
from beacon_lit.chat import reading as reading_module
from beacon_lit.chat.reading import Reading
from beacon_lit.tiny import byte_tokenizer
from tests.arch.tiny import examples, tiny
from tests.chat.tokenizers import KINDS, LINES, TEMPLATES, tokenizer

NEW = 6
GREEDY = {"max_new_tokens": NEW, "do_sample": False}
DOCUMENT = " ".join(LINES)
_models: dict[int, BeaconLM] = {}


def model(kind: str, **values: Any) -> BeaconLM:
    """A small model for a tokenizer's vocabulary."""
    size = len(tokenizer(kind))
    if values or size not in _models:
        beacon = BeaconConfig(window=16, ratios=4, sink=2, overlap=3)
        options = {"vocab_size": size, "max_position_embeddings": 4096, "eos_token_id": None, **values}
        lm = tiny("llama", beacon, **options).double().eval()
        return lm if values else _models.setdefault(size, lm)
    return _models[size]


def chat_with(kind: str, template: str = "chatml", system: str | None = None) -> BeaconChat:
    return BeaconChat(model(kind), tokenizer(kind), system, chat_template=TEMPLATES.get(template))


def whole(chat: BeaconChat, messages: list[dict[str, str]], template: str, prompt: bool = False) -> list[int]:
    """All of a conversation, tokenised in one piece."""
    text = chat.tokenizer.apply_chat_template(
        messages, chat_template=TEMPLATES.get(template), tokenize=False, add_generation_prompt=prompt
    )
    return chat.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def check(chat: BeaconChat, template: str) -> None:
    """The cache has read the beginning of the conversation, however an open turn goes on."""
    messages = chat.messages
    continuations = [""]
    if messages and messages[-1]["role"] == "user":
        continuations = ["\n\nWho?", "\n\n\nWho?", "\n\n1", "\n\n...", "\n\nÉ\n\nsecond"]
    for continuation in continuations:
        opened = (
            [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + continuation}] if messages else []
        )
        assert chat.ids == (whole(chat, opened, template) if opened else [])[: len(chat.ids)]
    assert (chat.cache.seen_tokens if chat.cache else 0) == len(chat.ids)
    if chat.ids:
        anew = chat.lm.compress(torch.tensor([[*chat.ids, 5]]))
        further = chat.lm.compress(torch.tensor([[5]]), cache=chat.cache)
        assert further.rows[0].slots == anew.rows[0].slots and further.rows[0].open_ids == anew.rows[0].open_ids
        torch.testing.assert_close(further.last_hidden, anew.last_hidden, atol=1e-8, rtol=1e-8)


def answer_anew(chat: BeaconChat, question: str, template: str, **options: Any) -> str:
    """The answer of a model that reads the whole conversation at once."""
    messages = chat.messages
    documents = [messages.pop()["content"]] if messages and messages[-1]["role"] == "user" else []
    turn = {"role": "user", "content": "\n\n".join([*documents, question])}
    ids = torch.tensor([whole(chat, [*messages, turn], template, prompt=True)])
    eos = chat.tokenizer.eos_token_id
    out = chat.lm.generate(ids, eos_token_id=eos, pad_token_id=eos, **{**GREEDY, **options})[0, ids.shape[1] :].tolist()
    return chat.tokenizer.decode(out[:-1] if out[-1] == eos else out, skip_special_tokens=True)


class Says(LogitsProcessor):
    """Makes the model say given tokens."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = iter(ids)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -1e9).index_fill(1, torch.tensor([next(self.ids)]), 0.0)


def saying(chat: BeaconChat, text: str) -> dict[str, Any]:
    """Options under which the model answers `text`, as its tokenizer splits it, and ends."""
    ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [*ids, chat.tokenizer.eos_token_id]
    return {"logits_processor": LogitsProcessorList([Says(ids)]), "max_new_tokens": len(ids), "do_sample": False}


TEXT = st.lists(st.sampled_from([*LINES[:3], "a", " b", "\n", "é", "12", "  ", "x.", "🙂"]), min_size=1, max_size=8)
SOME = TEXT.map("".join).filter(lambda text: text.strip() != "")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), SOME),
        st.tuples(st.just("ask"), SOME),
        st.tuples(st.just("aside"), SOME),
        st.tuples(st.just("say"), SOME),
    ),
    min_size=1,
    max_size=6,
)


CASES = [*((kind, template) for kind in KINDS[:-1] for template in TEMPLATES), ("smollm2", "own")]


@pytest.mark.parametrize(("kind", "template"), CASES)
@given(steps=STEPS, system=st.sampled_from([None, "Be brief."]))
@examples(5)
def test_what_is_read_is_the_conversation(kind: str, template: str, steps: list[tuple[str, str]], system: Any) -> None:
    chat = chat_with(kind, template, system)
    for step, text in steps:
        if step == "read":
            chat.read(text)
        elif step == "say":
            said = f"<think>\n{text}\n</think>\n\n{text}"
            chat.ask("And?", **saying(chat, said))
        else:
            before = chat.messages, chat.ids, chat.cache
            expected = answer_anew(chat, text, template)
            assert chat.ask(text, keep=step == "ask", **GREEDY) == expected
            if step == "aside":
                assert (chat.messages, chat.ids, chat.cache) == before
        check(chat, template)


@pytest.mark.parametrize("template", TEMPLATES)
def test_windows_that_hold_beacons_while_open(template: str) -> None:
    lm = model("words", tie_word_embeddings=True)
    lm.beacon = replace(lm.beacon, unfinished="beacons")
    chat = BeaconChat(lm, tokenizer("words"), "Be brief.", chat_template=TEMPLATES[template])
    chat.read(DOCUMENT)
    check(chat, template)
    for text in LINES[:3]:
        assert chat.ask(text, keep=False, **GREEDY) == answer_anew(chat, text, template)
        assert chat.ask(text, **GREEDY) is not None
        check(chat, template)
        chat.ask("And?", **saying(chat, f"<think>\n{text}\n</think>\n\n{text}"))
        check(chat, template)


def test_the_property_notices_a_chat_that_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reading, "back_to", lambda self, ids: self)
    chat = chat_with("words", "reasoning")
    chat.ask("What?", **saying(chat, "<think>\nhm\n</think>\n\nYes."))
    chat.ask("Why?", **saying(chat, "No."))
    with pytest.raises(AssertionError):
        check(chat, "reasoning")


def test_the_property_notices_a_document_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = chat_with("prefixed")
    with monkeypatch.context() as patched:
        patched.setattr("beacon_lit.chat.chat.HELD_BACK", -(10**6))
        chat.read("The fox.")
    with pytest.raises(AssertionError):
        check(chat, "chatml")
    for question in ("Yes?", "\n\nYes?", "..."):  # but what is asked of it is right even so
        assert chat.ask(question, keep=False, **GREEDY) == answer_anew(chat, question, "chatml")
    chat.ask("Yes?", **saying(chat, "No."))
    check(chat, "chatml")


def test_reading_again_starts_where_the_text_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    chat, read = chat_with("words", "reasoning"), []
    chat.read(DOCUMENT)
    document, compress = len(chat.ids), chat.lm.compress_iter
    monkeypatch.setattr(
        chat.lm, "compress_iter", lambda ids, *a, **kw: read.append(ids.shape[1]) or compress(ids, *a, **kw)
    )
    for _ in range(4):
        chat.ask("What?", **saying(chat, "<think>\nhm, what, the seven wizards\n</think>\n\nYes."))
        read.clear()
        chat.ask("The quick brown fox jumps over the lazy dog. " * 2, keep=False, **GREEDY)
        assert len(read) == 1 and read[0] < 80 < document
        check(chat, "reasoning")


def test_answers_whose_tokens_are_not_those_of_their_text() -> None:
    chat = chat_with("words")
    chat.read(DOCUMENT)
    letters = [chat.tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "beer"]
    assert chat.tokenizer("beer", add_special_tokens=False)["input_ids"] != letters
    options = {"logits_processor": LogitsProcessorList([Says([*letters, chat.tokenizer.eos_token_id])])}
    assert chat.ask("What?", max_new_tokens=5, **options) == "beer"
    check(chat, "chatml")
    assert chat.ask("Why?", keep=False, **GREEDY) == answer_anew(chat, "Why?", "chatml")


def test_documents_join_into_one_turn() -> None:
    chat = chat_with("words", system="Be brief.")
    chat.read("One.")
    chat.read("Two.")
    assert chat.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One.\n\nTwo."}]
    chat.messages[1]["content"] = "changed"  # a copy
    answer = chat.ask("Three?", **GREEDY)
    assert chat.messages[1:] == [
        {"role": "user", "content": "One.\n\nTwo.\n\nThree?"},
        {"role": "assistant", "content": answer},
    ]


def test_progress_is_told_after_every_chunk() -> None:
    chat, seen = chat_with("words"), []
    chat.read(DOCUMENT, progress=lambda done, total: seen.append((done, total, chat.cache.seen_tokens)))
    assert len(seen) > 1 and seen[-1][0] == seen[-1][1] == len(chat.ids)
    assert all(done == held for done, _, held in seen) and sorted(seen) == seen


def interrupt(after: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        nonlocal after
        after -= 1
        if after == 0:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_read_changes_nothing_and_goes_on_when_asked_again() -> None:
    chat, other = chat_with("words", system="Be brief."), chat_with("words", system="Be brief.")
    chat.read("The fox.")
    with pytest.raises(KeyboardInterrupt):
        chat.read(DOCUMENT * 4, progress=interrupt(2))
    assert chat.messages[1:] == [{"role": "user", "content": "The fox."}]
    assert chat.cache.seen_tokens == len(chat.ids) > 100
    assert chat.ask("Who?", keep=False, **GREEDY) == answer_anew(chat, "Who?", "chatml")
    first: list[int] = []
    chat.read(DOCUMENT * 4, progress=lambda done, total: first.append(total))
    check(chat, "chatml")
    other.read("The fox.")
    other.read(DOCUMENT * 4)
    assert chat.ids == other.ids and first[0] < len(other.ids) - 100  # the rest alone


def test_an_interrupted_answer_changes_nothing() -> None:
    class Stopping(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            raise KeyboardInterrupt

    chat = chat_with("words")
    chat.read(DOCUMENT)
    before = chat.messages, chat.ids, chat.cache
    with pytest.raises(KeyboardInterrupt):
        chat.ask("Who?", streamer=Stopping(chat.tokenizer, skip_prompt=True), **GREEDY)
    assert (chat.messages, chat.ids, chat.cache) == before
    assert chat.ask("Who?", **GREEDY) is not None


def test_ratios_go_on() -> None:
    beacon = BeaconConfig(window=16, ratios=(2, 4, 8))
    lm = tiny("llama", beacon, vocab_size=len(tokenizer("words")), max_position_embeddings=4096).eval()
    for ratio, beacons in ((2, [8]), (8, [2]), ([8, 2, 2, 4], [2, 8, 8, 4])):
        chat = BeaconChat(lm, tokenizer("words"))
        chat.read(DOCUMENT, ratios=ratio)
        chat.ask("The quick brown fox? " * 10, **GREEDY)
        chat.ask("The quick brown fox? " * 10, **GREEDY)
        row = chat.cache.rows[0]
        assert row.beacon_slots == sum(beacons) + beacons[-1] * (row.windows - len(beacons))
    with pytest.raises(ValueError, match="pass ratios="):
        BeaconChat(lm, tokenizer("words")).read(DOCUMENT)
    with pytest.raises(ValueError, match="pass ratios="):
        BeaconChat(lm, tokenizer("words")).ask("What?", **GREEDY)


def test_an_answer_ends_with_the_turn() -> None:
    for template in TEMPLATES:
        chat = chat_with("words", template)
        assert chat._end_of_turn == chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    end = chat._end_of_turn
    chat = chat_with("words")
    assert chat.lm.generation_config.eos_token_id is None
    dog = chat.tokenizer("dog", add_special_tokens=False)["input_ids"]
    options = {"logits_processor": LogitsProcessorList([Says([*dog, end, *dog * 9])])}
    assert chat.ask("What?", keep=False, max_new_tokens=12, **options) == "dog"
    options = {"logits_processor": LogitsProcessorList([Says([*dog, end, *dog * 9])]), "eos_token_id": None}
    assert chat.ask("What?", keep=False, max_new_tokens=len(dog) * 3 + 1, **options) == "dogdogdog"


def test_options_default_to_the_models() -> None:
    lm = model("words", tie_word_embeddings=False)
    lm.generation_config.max_new_tokens = 3
    chat, tokens = BeaconChat(lm, tokenizer("words")), []
    streamer = TextStreamer(chat.tokenizer, skip_prompt=True)
    streamer.put = lambda value: tokens.append(value.numel())  # type: ignore[method-assign]
    chat.ask("What?", eos_token_id=None, streamer=streamer)
    assert tokens[1:] == [1, 1, 1]


def test_no_warnings_while_the_slots_last(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> None:
    lm = model("words", max_position_embeddings=256)
    lm.generation_config.max_length = 64
    tok = tokenizer("words")
    longest, tok.model_max_length = tok.model_max_length, 64
    try:
        chat = BeaconChat(lm, tok)
        chat.read(DOCUMENT * 2)
        assert chat.cache.seen_tokens > 256
        chat.ask("What?", **GREEDY)
        chat.ask("What else?", keep=False, **GREEDY)
    finally:
        tok.model_max_length = longest
    assert not caplog.records and not recwarn.list


@pytest.mark.parametrize("text", ["", "  \n", None, 3])
def test_empty_texts_are_refused(text: Any) -> None:
    chat = chat_with("words")
    with pytest.raises(ValueError, match=re.escape(f"document={text!r}")):
        chat.read(text)
    with pytest.raises(ValueError, match=re.escape(f"question={text!r}")):
        chat.ask(text)
    assert chat.messages == [] and chat.cache is None
    if text is not None:
        with pytest.raises(ValueError, match=re.escape(f"system={text!r}")):
            chat_with("words", system=text)


def test_what_does_not_fit_is_refused_before_it_is_read() -> None:
    lm = model("words", max_position_embeddings=96)
    chat, progress = BeaconChat(lm, tokenizer("words")), []
    with pytest.raises(ValueError, match=r"position slots.*longest supported.*at ratio 4"):
        chat.read(DOCUMENT * 4, progress=lambda *step: progress.append(step))
    assert not progress and chat.messages == [] and chat.cache is None
    with pytest.raises(ValueError, match="position slots"):
        chat.ask(DOCUMENT * 4)
    with pytest.raises(ValueError, match=r"max_new_tokens=900 is not allowed here: .*position slots"):
        chat.ask("What?", max_new_tokens=900)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": "many"}, "max_new_tokens='many'"),
        ({"cache": None}, "cache is not allowed"),
        ({"num_return_sequences": 2}, "num_return_sequences is not allowed"),
        ({"temprature": 1.0}, "temprature is not allowed"),
        ({"ratios": 5}, "ratios=5"),
        ({"ratios": [[4]]}, r"ratios=\[4\]"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    chat = chat_with("words")
    with pytest.raises(ValueError, match=message):
        chat.ask("What?", **options)
    assert chat.messages == []


def test_a_chat_needs_a_template_that_takes_its_messages() -> None:
    tok = byte_tokenizer()
    lm = tiny("llama", vocab_size=len(tok))
    tok.chat_template = None
    with pytest.raises(ValueError, match=r"no chat template; give one .* BeaconChat\(\.\.\., chat_template=\.\.\.\)"):
        BeaconChat(lm, tok)
    refusing = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system!') }}{% endif %}{% endfor %}"
    )
    assert BeaconChat(lm, tok, chat_template=refusing).messages == []
    with pytest.raises(ValueError, match=r"refuses these messages \(system, user\): No system!"):
        BeaconChat(lm, tok, "Be brief.", chat_template=refusing)
    with pytest.raises(ValueError, match="template option day="):
        BeaconChat(lm, tok, chat_template=refusing, day=tok)


def test_beams_leave_a_chat_that_goes_on() -> None:
    chat = chat_with("words")
    chat.read(DOCUMENT)
    chat.ask("What?", num_beams=3, **GREEDY)
    check(chat, "chatml")
    assert chat.ask("Why?", keep=False, **GREEDY) == answer_anew(chat, "Why?", "chatml")


def test_a_model_in_training_mode_is_put_into_eval_mode() -> None:
    assert not BeaconChat(tiny("llama", vocab_size=len(tokenizer("words"))), tokenizer("words")).lm.training


def test_a_streamer_gets_the_answer_as_it_comes() -> None:
    chat = chat_with("words")
    chat.read(DOCUMENT)
    streamer = TextIteratorStreamer(chat.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    answers: list[str] = []
    thread = Thread(target=lambda: answers.append(chat.ask("Who?", streamer=streamer, **GREEDY)))
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces) == answers[0] and answers[0]


def test_the_pipeline_of_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    lm, tok = model("words"), tokenizer("words")
    generate = pipeline("text-generation", model=lm, tokenizer=tok)
    ids = tok(DOCUMENT, return_tensors="pt", add_special_tokens=False)["input_ids"]
    plain = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0, **GREEDY}
    expected = lm.generate(ids, **plain)[0, ids.shape[1] :]
    assert generate(DOCUMENT, return_full_text=False, **GREEDY)[0]["generated_text"] == tok.decode(expected)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"{DOCUMENT}\n\nWho?"}]
    chat = chat_with("words", system="Be brief.")
    chat.read(DOCUMENT)
    answer = generate(messages, **GREEDY)[0]["generated_text"]
    assert answer == [*messages, {"role": "assistant", "content": chat.ask("Who?", keep=False, **GREEDY)}]
    rows = generate([messages, messages[1:]], batch_size=2, **{**GREEDY, "pad_token_id": 0})
    assert rows[0][0]["generated_text"] == answer
    lm.generate(ids, streamer=TextStreamer(tok, skip_prompt=True), **plain)
    assert capsys.readouterr().out == tok.decode(expected) + "\n"


def test_held_back_is_what_the_chat_uses() -> None:
    chat = chat_with("words")
    chat.read(DOCUMENT)
    text = whole(chat, chat.messages, "chatml")
    assert 0 < len(text) - len(chat.ids) < reading_module.HELD_BACK + 5
