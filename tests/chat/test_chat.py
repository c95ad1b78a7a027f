"""A chat's cache has read what the template makes of the conversation; it answers as if it had read it at once."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TextStreamer, pipeline

from beacon_lit import BeaconChat
from beacon_lit.chat.reading import Reading
from tests.arch.tiny import examples, tiny
from tests.chat.chats import DOCUMENT, GREEDY, answer_anew, chat_with, check, model, saying
from tests.chat.tokenizers import KINDS, LINES, TEMPLATES, tokenizer

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
# Warnings that Python hides by default, such as one about a file that an earlier test left open.
HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
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
    for text in LINES[:2]:
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
    shown = [one for one in recwarn if not issubclass(one.category, HIDDEN)]
    assert not caplog.records and not shown


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


def test_a_model_in_training_mode_is_put_into_eval_mode() -> None:
    assert not BeaconChat(tiny("llama", vocab_size=len(tokenizer("words"))), tokenizer("words")).lm.training


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
