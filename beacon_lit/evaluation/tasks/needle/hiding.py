"""Hides needles: puts announcement, haystack with needles, and question together, exact to the token."""

from collections.abc import Sequence
from dataclasses import dataclass

from beacon_lit.data.encoding import token_ids
from beacon_lit.data.retrieval.assembly import sentence_start
from beacon_lit.data.retrieval.token_ids import insert
from beacon_lit.evaluation.tasks.needle.haystack import Haystack
from beacon_lit.evaluation.turn_markup import TurnMarkup

ANNOUNCEMENT = "Read the long text below with care. A question about a detail in it follows at its end.\n\n"


@dataclass(frozen=True)
class HiddenPrompt:
    """A prompt with needles.

    Attributes:
        ids: all tokens.
        positions: index of the first token of each needle, in the order in which the needles were given.
    """

    ids: list[int]
    positions: list[int]


def hide(
    markup: TurnMarkup,
    haystack: Haystack,
    first: int,
    length: int,
    statements: Sequence[str],
    depths: Sequence[float],
    question: str,
) -> HiddenPrompt:
    """Make a prompt of exactly `length` tokens, special tokens and the chat template's included.

    Args:
        markup: the text around document and question.
        haystack: the text that the needles are hidden in.
        first: number of the haystack's text that comes first.
        length: tokens in all.
        statements: the needles, with the white space around them.
        depths: for each needle the share of the haystack's tokens before it, in per cent; from there it is moved to the
            beginning of the next sentence, or else word, if this is within 64 tokens.
        question: what is asked.

    Raises:
        ValueError: a length that leaves no room for a haystack.
    """
    opening, closing = markup.opening(ANNOUNCEMENT), markup.question(question)
    needles = [token_ids(markup.tokenizer, statement) for statement in statements]
    room = length - len(opening) - len(closing) - sum(map(len, needles))
    if room < 1:
        raise ValueError(f"lengths={length} is not allowed; allowed: at least {length - room + 1} tokens")
    text = haystack.cut(first, room)
    drawn = [round(room * depth / 100) for depth in depths]
    places = [sentence_start(markup.tokenizer, text, place) if place else 0 for place in drawn]
    document, positions = insert(text, needles, places)
    return HiddenPrompt(opening + document + closing, [len(opening) + position for position in positions])
