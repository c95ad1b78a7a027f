"""Text that goes on is tokenised as if it were tokenised whole."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.chat import tokenizing
from beacon_lit.chat.tokenizing import MARGIN, common_prefix, tokenize
from tests.arch.tiny import examples
from tests.chat.tokenizers import KINDS, LINES, tokenizer

PIECES = [*LINES[:3], " ", "\n", "a", "é", "e\u0301", "<|im_end|>", "1", "'s", "aaaa", "🙂", "\t\t", "."]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
LONG = st.lists(st.sampled_from(PIECES), min_size=30, max_size=60).map("".join)


def whole(text: str, kind: str) -> list[int]:
    return tokenizer(kind)(text, add_special_tokens=False, verbose=False)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
@given(start=LONG, middle=TEXTS, parts=st.lists(TEXTS, max_size=4), drop=st.integers(0, 2 * MARGIN))
@examples(40)
def test_a_text_that_goes_on(kind: str, start: str, middle: str, parts: list[str], drop: int) -> None:
    known = tokenize(start + middle, tokenizer(kind))
    assert known.ids == whole(start + middle, kind)
    text = (start + middle)[: len(start + middle) - drop]
    for part in parts:
        text += part
        known = tokenize(text, tokenizer(kind), known)
        assert known.ids == whole(text, kind)


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.characters = inner, 0

    def __call__(self, text: str, **options: Any) -> Any:
        self.characters += len(text)
        return self.inner(text, **options)


@pytest.mark.parametrize("kind", ["words", "smollm2"])
def test_only_the_end_is_tokenised_again(kind: str) -> None:
    text = "".join(LINES) * 50
    known = tokenize(text, tokenizer(kind))
    counting = Counting(tokenizer(kind))
    assert tokenize(text + "And then?", counting, known).ids == whole(text + "And then?", kind)
    assert counting.characters < 6 * MARGIN < len(text) / 10


def test_where_words_are_unknown_everything_is_tokenised_again() -> None:
    text = "".join(LINES) * 50
    known = tokenize(text, tokenizer("metaspace"))
    assert known.cuts == ()


def test_a_cut_is_tried_before_it_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "eggs.\nbeer.\n" * 200  # this tokenizer puts a space before every text, which no word here begins with
    assert tokenize(text, tokenizer("prefixed")).cuts == ()
    monkeypatch.setattr(tokenizing, "_starts_anew", lambda *_: True)
    believed, more = tokenize(text, tokenizer("prefixed")), text + "more"
    assert believed.cuts and tokenize(more, tokenizer("prefixed"), believed).ids != whole(more, "prefixed")


@given(one=st.text("ab"), two=st.text("ab"))
def test_the_common_prefix(one: str, two: str) -> None:
    length = common_prefix(one, two)
    assert one[:length] == two[:length]
    assert length == min(len(one), len(two)) or one[length] != two[length]
    assert common_prefix(list(one), list(two)) == length
