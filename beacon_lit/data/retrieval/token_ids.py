"""Token ids of texts that are tokenised one by one and put together, so that nothing shifts."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from beacon_lit.data.encoding import token_ids


def tokens_before(tokenizer: Any, before: str, ids: Sequence[int]) -> int:
    """Count the tokens of a text that belong to its beginning.

    A blank at the end of `before` does not count if one token holds the blank and what follows.

    Args:
        tokenizer: a Hugging Face tokenizer.
        before: the beginning of the text.
        ids: token ids of the whole text.
    """
    pairs = zip(token_ids(tokenizer, before), ids, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def insert(
    haystack: Sequence[int], statements: Sequence[Sequence[int]], places: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Insert statements into a haystack.

    Args:
        haystack: (H,) token ids.
        statements: token ids of each statement.
        places: number of haystack tokens before each statement, 0 to H; statements of one place keep their order.

    Returns:
        The token ids of haystack and statements, and the index of each statement's first token.
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
