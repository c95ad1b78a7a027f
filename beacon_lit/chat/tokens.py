"""Text -> token ids, where the text mostly goes on from one that has been tokenised before."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MARGIN = 256  # characters: how far before or behind it what is written may decide where a word ends
_SEARCHED = 64  # tokens that are looked at for a place to cut


@dataclass(frozen=True)
class Encoded:
    """A text and its token ids.

    Attributes:
        text: the text.
        ids: what the tokenizer makes of all of it, without special tokens of its own.
        cuts: (characters, tokens), ascending: places where tokenising what follows alone gives the same tokens.
    """

    text: str = ""
    ids: list[int] = field(default_factory=list)
    cuts: tuple[tuple[int, int], ...] = ()


def encode(text: str, tokenizer: Any, known: Encoded | None = None) -> Encoded:
    """Token ids of `text`, the same as of a tokenizer that reads all of it.

    Where `text` begins like the `known` one, only what follows the last cut that both share is tokenised. Cuts are
    between the words that a pre-tokenizer splits text into: merges happen inside of words, and where words end is
    decided within `MARGIN` characters. A tokenizer without words (SentencePiece without pre-tokenisation) or one that
    does not tell them (a slow one) has no cuts, and reads everything again.

    Args:
        text: any text; special tokens may be written in it.
        tokenizer: a Hugging Face tokenizer.
        known: what was tokenised before, by the same tokenizer.
    """
    known = known or Encoded()
    shared = common_prefix(text, known.text)
    cuts = tuple(cut for cut in known.cuts if cut[0] + MARGIN <= shared)
    start, count = cuts[-1] if cuts else (0, 0)
    encoding = tokenizer(text[start:], add_special_tokens=False, verbose=False)
    ids = encoding["input_ids"]
    cut = _find_cut(text[start:], encoding, tokenizer)
    if cut is not None:
        cuts += ((start + cut[0], count + cut[1]),)
    return Encoded(text, [*known.ids[:count], *ids], cuts)


def common_prefix(one: Sequence, two: Sequence) -> int:
    """Characters, or token ids, that two sequences have in common at their start."""
    low, high = 0, min(len(one), len(two))
    while low < high:  # halving compares whole slices, much faster than one by one
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == two[low:middle] else (low, middle - 1)
    return low


def _find_cut(text: str, encoding: Any, tokenizer: Any) -> tuple[int, int] | None:
    """The last (character, token) between two words that is far from the text's end, and proves to be a cut."""
    end = len(text) - 2 * MARGIN  # far enough for texts that differ from this one in its last MARGIN characters
    if end < 2 * MARGIN or not encoding.is_fast:
        return None
    last = encoding.char_to_token(end)
    for token in range(last or 0, max((last or 0) - _SEARCHED, 0), -1):
        before, after = encoding.token_to_chars(token - 1), encoding.token_to_chars(token)
        words = encoding.token_to_word(token - 1), encoding.token_to_word(token)
        if before is None or after is None or before.end != after.start or None in words or words[0] == words[1]:
            continue
        # An ASCII character never combines with what is before it, so normalisation cannot reach across.
        if text[after.start].isascii() and _starts_anew(text[after.start :], encoding["input_ids"][token:], tokenizer):
            return after.start, token
    return None


def _starts_anew(rest: str, ids: list[int], tokenizer: Any) -> bool:
    return tokenizer(rest, add_special_tokens=False, verbose=False)["input_ids"] == ids
