"""Text -> token ids: decides, for the whole package, which special tokens stand around a text.

A text starts with the tokens that its tokenizer puts before texts (usually the BOS token, often nothing). Nothing
follows a text, even if the tokenizer appends an EOS token: a prompt must go on, and training text gets its one EOS
token where samples are made. A chat template writes special tokens of its own, so rendered text is read as it is.
"""

from collections.abc import Sequence
from typing import Any

_PROBE = "a"


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokenise a text that already has its special tokens, or is a part of a text."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokenise the beginning of a text, behind the `start_ids`; start tokens in the text are not doubled."""
    return _started(start_ids(tokenizer), token_ids(tokenizer, text))


def all_token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise many texts in one call, which is faster; see `token_ids`."""
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def all_prompt_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise the beginnings of many texts in one call; see `prompt_ids`."""
    start = start_ids(tokenizer)
    return [_started(start, ids) for ids in all_token_ids(tokenizer, texts)]


def start_ids(tokenizer: Any) -> list[int]:
    """Return the ids that the tokenizer puts before every text: usually its BOS token, or nothing.

    A tokenizer may append tokens as well, and one token may be both BOS and EOS, so that only the place of a text among
    its special tokens tells what stands before.
    """
    plain, whole = (tokenizer(_PROBE, add_special_tokens=added, verbose=False)["input_ids"] for added in (False, True))
    places = range(len(whole) - len(plain) + 1)
    return list(whole[: next((i for i in places if whole[i : i + len(plain)] == plain), 0)])


def _started(start: Sequence[int], ids: Sequence[int]) -> list[int]:
    """Put start ids before the ids of a text, unless the text has them already."""
    return list(ids) if list(ids[: len(start)]) == list(start) else [*start, *ids]
