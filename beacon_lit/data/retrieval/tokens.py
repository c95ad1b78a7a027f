"""Arithmetic of token ids: pieces are tokenised one by one and put together, so that nothing shifts."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text, with nothing put around it."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def tokens_before(tokenizer: Any, before: str, ids: Sequence[int]) -> int:
    """How many of the first `ids`, which are a longer text's, belong to its beginning `before`.

    A blank at the end of `before` is left with what follows where the two are one token.
    """
    pairs = zip(token_ids(tokenizer, before), ids, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def insert(
    haystack: Sequence[int], statements: Sequence[Sequence[int]], places: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Statements put into a haystack.

    haystack: (H,) ids
    statements: ids of each
    places: how many ids of the haystack come before each, 0..H; those of one place keep their order
    Returns the ids, H and all statements' together, and the index of each statement's first token.
    """
    ids: list[int] = []
    positions = [0] * len(statements)
    done = 0
    for i in sorted(range(len(statements)), key=lambda i: places[i]):
        ids += haystack[done : places[i]]
        done = places[i]
        positions[i] = len(ids)
        ids += statements[i]
    return ids + list(haystack[done:]), positions
