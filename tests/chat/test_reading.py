"""A chat reads what is new, keeps what an interruption leaves, and refuses what does not fit."""

import pytest

from beacon_lit import BeaconChat, BeaconConfig
from beacon_lit.chat import reading as reading_module
from tests.arch.tiny import tiny
from tests.chat.chats import DOCUMENT, GREEDY, answer_anew, chat_with, check, interrupt, model, saying, whole
from tests.chat.tokenizers import tokenizer


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


def test_progress_is_told_after_every_chunk() -> None:
    chat, seen = chat_with("words"), []
    chat.read(DOCUMENT, progress=lambda done, total: seen.append((done, total, chat.cache.seen_tokens)))
    assert len(seen) > 1 and seen[-1][0] == seen[-1][1] == len(chat.ids)
    assert all(done == held for done, _, held in seen) and sorted(seen) == seen


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


def test_ratios_go_on() -> None:
    beacon = BeaconConfig(window=16, ratios=(2, 4, 8), placement="interleave")
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


def test_held_back_is_what_the_chat_uses() -> None:
    chat = chat_with("words")
    chat.read(DOCUMENT)
    text = whole(chat, chat.messages, "chatml")
    assert 0 < len(text) - len(chat.ids) < reading_module.HELD_BACK + 5
