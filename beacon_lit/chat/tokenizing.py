"""Text -> token ids, where the text mostly continues a text that was tokenised before."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MARGIN = 256  # characters: the text this far before and behind a place may decide whether a word ends there
_SEARCHED = 64  # most tokens that are tried as a place to cut


@dataclass(frozen=True)
class TokenizedText:
    """A text and its token ids.

    Attributes:
        text: the text.
        ids: token ids of the whole text, without the special tokens that the tokenizer adds.
        cuts: (characters, tokens), ascending: places where the text behind, tokenised alone, has the same tokens.
    """

    text: str = ""
    ids: list[int] = field(default_factory=list)
    cuts: tuple[tuple[int, int], ...] = ()


def tokenize(text: str, tokenizer: Any, known: TokenizedText | None = None) -> TokenizedText:
    """Tokenise a text, with the same token ids as if the whole text were tokenised at once.

    Where `text` begins like the `known` text, only the part behind their last common cut is tokenised. Cuts are between
    the words that a pre-tokenizer splits text into: merges happen within words, and the ends of words depend on at most
    `MARGIN` characters around them. A tokenizer without words (SentencePiece without pre-tokenisation) or one that does
    not report words (a slow tokenizer) has no cuts, and tokenises everything again.

    Args:
        text: any text; may contain special tokens.
        tokenizer: a Hugging Face tokenizer.
        known: a text that was tokenised before, with the same tokenizer.
    """
    known = known or TokenizedText()
    shared = common_prefix(text, known.text)
    cuts = tuple(cut for cut in known.cuts if cut[0] + MARGIN <= shared)
    start, count = cuts[-1] if cuts else (0, 0)
    encoding = tokenizer(text[start:], add_special_tokens=False, verbose=False)
    ids = encoding["input_ids"]
    cut = _find_cut(text[start:], encoding, tokenizer)
    if cut is not None:
        cuts += ((start + cut[0], count + cut[1]),)
    return TokenizedText(text, [*known.ids[:count], *ids], cuts)


def common_prefix(one: Sequence, two: Sequence) -> int:
    """Count the characters or token ids that two sequences have in common at their start."""
    low, high = 0, min(len(one), len(two))
    while low < high:  # bisection compares slices, which is much faster than single items
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == two[low:middle] else (low, middle - 1)
    return low


def _find_cut(text: str, encoding: Any, tokenizer: Any) -> tuple[int, int] | None:
    """Find the last (character, token) between two words, far from the text's end, that proves to be a cut."""
    end = len(text) - 2 * MARGIN  # so that a text with other last MARGIN characters has this cut, too
    if end < 2 * MARGIN or not encoding.is_fast:
        return None
    last = encoding.char_to_token(end)
    for token in range(last or 0, max((last or 0) - _SEARCHED, 0), -1):
        before, after = encoding.token_to_chars(token - 1), encoding.token_to_chars(token)
        words = encoding.token_to_word(token - 1), encoding.token_to_word(token)
        if before is None or after is None or before.end != after.start or None in words or words[0] == words[1]:
            continue
        # An ASCII character never combines with the character before, so normalisation does not cross this place.
        if text[after.start].isascii() and _starts_anew(text[after.start :], encoding["input_ids"][token:], tokenizer):
            return after.start, token
    return None


def _starts_anew(rest: str, ids: list[int], tokenizer: Any) -> bool:
    return tokenizer(rest, add_special_tokens=False, verbose=False)["input_ids"] == ids
