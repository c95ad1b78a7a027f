"""The pieces of an answer are the text of the whole answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from beacon_lit.demo import smollm2
from beacon_lit.serving.wording import Wording
from beacon_lit.tiny import byte_tokenizer

BYTES = byte_tokenizer()
SMOLLM2 = AutoTokenizer.from_pretrained(smollm2())


def pieces(ids: list[int], tokenizer: object, *stops: str) -> list[str]:
    """What each token adds, up to the stop, and the rest."""
    wording, found = Wording(tokenizer, stops), []
    for id in ids:
        found.append(wording.add(id))
        if wording.stopped:
            break
    return [*found, wording.rest()]


@given(st.lists(st.integers(0, 257), max_size=30))
def test_any_bytes(ids: list[int]) -> None:
    assert "".join(pieces(ids, BYTES)) == BYTES.decode(ids, skip_special_tokens=True)


@given(st.text(max_size=20))
def test_any_text_comes_in_whole_characters(text: str) -> None:
    for tokenizer in (BYTES, SMOLLM2):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        found = pieces(ids, tokenizer)
        assert "".join(found) == tokenizer.decode(ids, skip_special_tokens=True)
        whole = tokenizer.decode(ids, skip_special_tokens=True)  # some tokenizers lack a character's bytes
        assert "\ufffd" in whole or not any("\ufffd" in piece for piece in found)


def test_text_is_not_held_back_for_long() -> None:
    found = pieces(BYTES("ab é")["input_ids"], BYTES)
    assert found == ["a", "b", " ", "", "é", ""]


@pytest.mark.parametrize(
    ("text", "stops", "found"),
    [
        ("one. two.", (". ",), "one"),
        ("one. two.", (" two", "ne"), "o"),
        ("aab", ("ab",), "a"),
        ("aaab", ("aab",), "a"),
        ("one", ("nex",), "one"),
        ("one", ("",), "one"),
        ("né", ("é",), "n"),
    ],
)
def test_stops(text: str, stops: tuple[str, ...], found: str) -> None:
    parts = pieces(BYTES(text)["input_ids"], BYTES, *filter(None, stops))
    assert "".join(parts) == found
    assert all(not stop or stop not in "".join(parts) for stop in stops)
