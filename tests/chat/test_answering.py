"""Generation options come from the call, the model and the chat template."""

from threading import Thread
from typing import Any

import pytest
from transformers import LogitsProcessorList, TextIteratorStreamer, TextStreamer

from beacon_lit import BeaconChat
from tests.chat.chats import DOCUMENT, GREEDY, Says, answer_anew, chat_with, check, model
from tests.chat.tokenizers import TEMPLATES, tokenizer


def test_answers_whose_tokens_are_not_those_of_their_text() -> None:
    chat = chat_with("words")
    chat.read(DOCUMENT)
    letters = [chat.tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "beer"]
    assert chat.tokenizer("beer", add_special_tokens=False)["input_ids"] != letters
    options = {"logits_processor": LogitsProcessorList([Says([*letters, chat.tokenizer.eos_token_id])])}
    assert chat.ask("What?", max_new_tokens=5, **options) == "beer"
    check(chat, "chatml")
    assert chat.ask("Why?", keep=False, **GREEDY) == answer_anew(chat, "Why?", "chatml")


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


def test_beams_leave_a_chat_that_goes_on() -> None:
    chat = chat_with("words")
    chat.read(DOCUMENT)
    chat.ask("What?", num_beams=3, **GREEDY)
    check(chat, "chatml")
    assert chat.ask("Why?", keep=False, **GREEDY) == answer_anew(chat, "Why?", "chatml")


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
