"""Puts a prompt together: announcement, haystack with needles in it, question; exact to the token."""

from collections.abc import Sequence
from dataclasses import dataclass

from beacon_lit.data.retrieval.assembly import sentence_start
from beacon_lit.data.retrieval.token_ids import insert, token_ids
from beacon_lit.evaluation.frame import Frame
from beacon_lit.evaluation.tasks.needle.haystack import Haystack

ANNOUNCEMENT = "Read the long text below with care. A question about a detail in it follows at its end.\n\n"


@dataclass(frozen=True)
class HiddenPrompt:
    """Attributes:
    ids: all tokens, as many as were asked for.
    positions: index of the first token of each needle, in the order in which they were given.
    """

    ids: list[int]
    positions: list[int]


def hide(
    frame: Frame,
    haystack: Haystack,
    first: int,
    length: int,
    statements: Sequence[str],
    depths: Sequence[float],
    question: str,
) -> HiddenPrompt:
    """A prompt of exactly `length` tokens, special tokens and those of the chat template included.

    Args:
        frame: the text around.
        haystack: what the needles are hidden in.
        first: the text of it that is there first.
        length: tokens in all.
        statements: the needles.
        depths: for each the share of the haystack's tokens before it, in per cent; from there it is moved on to where
            the next sentence (or else word) begins, if that is within 64 tokens.
        question: what is asked.

    Raises:
        ValueError: a length that leaves no room for a haystack.
    """
    opening, closing = frame.opening(ANNOUNCEMENT), frame.question(question)
    needles = [token_ids(frame.tokenizer, f" {statement}") for statement in statements]
    room = length - len(opening) - len(closing) - sum(map(len, needles))
    if room < 1:
        raise ValueError(f"lengths: got {length}; this needs at least {length - room + 1} tokens")
    text = haystack.cut(first, room)
    drawn = [round(room * depth / 100) for depth in depths]
    places = [sentence_start(frame.tokenizer, text, place) if place else 0 for place in drawn]
    document, positions = insert(text, needles, places)
    return HiddenPrompt(opening + document + closing, [len(opening) + position for position in positions])
