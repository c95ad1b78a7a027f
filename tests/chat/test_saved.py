"""A chat comes back from its folder as it was."""

import json
from pathlib import Path

import pytest

from beacon_lit import BeaconChat, BeaconConfig
from tests.arch.tiny import tiny
from tests.chat.chats import DOCUMENT, GREEDY, chat_with, check, interrupt, saying
from tests.chat.tokenizers import TEMPLATES, tokenizer


def came_back(chat: BeaconChat, folder: Path) -> BeaconChat:
    chat.save(folder)
    return BeaconChat.load(folder, chat.lm, chat.tokenizer)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", ["words", "metaspace"])
def test_the_same_answers_tomorrow(kind: str, template: str, tmp_path: Path) -> None:
    chat = chat_with(kind, template, "Be brief.")
    chat.read(DOCUMENT)
    for question in ("Who?", "What?"):
        again = came_back(chat, tmp_path)
        assert (again.messages, again.ids, again.cache.rows) == (chat.messages, chat.ids, chat.cache.rows)
        check(again, template)
        assert again.ask(question, keep=False, **GREEDY) == chat.ask(question, keep=False, **GREEDY)
        options = saying(chat, "<think>\nhm\n</think>\n\nYes."), saying(chat, "<think>\nhm\n</think>\n\nYes.")
        assert again.ask(question, **options[0]) == chat.ask(question, **options[1])
        assert again.ids == chat.ids
        chat.read("More.")


def test_a_chat_that_has_read_nothing(tmp_path: Path) -> None:
    assert came_back(chat_with("words", system="Be brief."), tmp_path / "new").messages == [
        {"role": "system", "content": "Be brief."}
    ]


def test_an_interrupted_read_goes_on_tomorrow(tmp_path: Path) -> None:
    chat, first = chat_with("words"), []
    with pytest.raises(KeyboardInterrupt):
        chat.read(DOCUMENT * 4, progress=interrupt(3))
    again = came_back(chat, tmp_path)
    again.read(DOCUMENT * 4, progress=lambda done, total: first.append(total))
    assert first[0] == len(again.ids) - len(chat.ids)
    check(again, "chatml")


def test_ratios_and_the_template_come_back(tmp_path: Path) -> None:
    lm = tiny(
        "llama",
        BeaconConfig(window=16, ratios=(2, 4), placement="interleave"),
        vocab_size=len(tokenizer("words")),
        eos_token_id=None,
    )
    template = "{% for m in messages %}[{{ strftime_now('%Y') }} {{ kind }} {{ m.content }}<|im_end|>{% endfor %}"
    chat = BeaconChat(lm, tokenizer("words"), chat_template=template, kind="short")
    chat.read("The fox.", ratios=4)
    chat.ask("What? " * 30, **GREEDY)
    again = came_back(chat, tmp_path)
    options = saying(chat, "Yes."), saying(chat, "Yes.")
    again.ask("What? " * 30, **options[0])
    chat.ask("What? " * 30, **options[1])
    assert again.cache.rows == chat.cache.rows and again.ids == chat.ids
    saved = json.loads((tmp_path / "chat.json").read_text())["template"]
    assert "strftime_now" not in saved["source"] and saved["options"] == {"kind": "short"}


def test_a_later_save_replaces_an_earlier_one(tmp_path: Path) -> None:
    chat = chat_with("words")
    chat.read(DOCUMENT)
    chat.save(tmp_path)
    chat.ask("What?", **saying(chat, "Yes."))
    chat.save(tmp_path)
    marks = json.loads((tmp_path / "chat.json").read_text())["marks"]
    assert {file.name for file in tmp_path.iterdir()} == {"chat.json", *(mark["file"] for mark in marks)}
    assert BeaconChat.load(tmp_path, chat.lm, chat.tokenizer).messages == chat.messages


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    chat = chat_with("words")
    chat.read(DOCUMENT)
    chat.save(tmp_path / "chat")
    with pytest.raises(ValueError, match="holds no saved chat"):
        BeaconChat.load(tmp_path / "none", chat.lm, chat.tokenizer)
    with pytest.raises(ValueError, match="has another tokenizer: the vocabulary differs"):
        BeaconChat.load(tmp_path / "chat", chat.lm, tokenizer("metaspace"))
    other = tiny("llama", chat.lm.beacon, vocab_size=len(tokenizer("words")), seed=1).double()
    with pytest.raises(ValueError, match="another model"):
        BeaconChat.load(tmp_path / "chat", other, chat.tokenizer)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds something other"):
        chat.save(tmp_path / "other")


def test_damage_is_named(tmp_path: Path) -> None:
    chat = chat_with("words")
    chat.read(DOCUMENT)
    chat.save(tmp_path)
    file = tmp_path / "chat.json"
    kept = json.loads(file.read_text())
    (cache,) = tmp_path.glob("cache-*")
    for change, message in (({"format": 7}, "format=7"), ({"marks": None}, "damaged"), ({"ids": [1, 2]}, "damaged")):
        file.write_text(json.dumps(kept | change))
        with pytest.raises(ValueError, match=message):
            BeaconChat.load(tmp_path, chat.lm, chat.tokenizer)
    file.write_text(json.dumps(kept)[:-40])
    with pytest.raises(ValueError, match="damaged"):
        BeaconChat.load(tmp_path, chat.lm, chat.tokenizer)
    file.write_text(json.dumps(kept))
    cache.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=cache.name):
        BeaconChat.load(tmp_path, chat.lm, chat.tokenizer)
