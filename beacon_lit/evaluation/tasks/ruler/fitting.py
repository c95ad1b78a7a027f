"""Finds the largest size that fits a number of tokens."""

from collections.abc import Callable

_GUESSES = 12


def largest(count: Callable[[int], int], least: int, room: int) -> int:
    """Find the largest size whose tokens fit.

    Tokens grow about evenly with the size, so that a few guesses usually suffice; then the interval is halved.

    Args:
        count: size -> tokens, at least one token per unit of size.
        least: the smallest size.
        room: maximum number of tokens.

    Raises:
        ValueError: the smallest size does not fit.
    """
    smallest = count(least)
    if smallest > room:
        raise ValueError(f"allowed: at least {smallest} tokens")
    size, tokens, too_much, rate = least, smallest, max(room, least + 1), 16.0
    for step in range(room):
        if too_much - size <= 1:
            break
        guess = size + int((room - tokens) / rate) if step < _GUESSES else (size + too_much) // 2
        guess = min(max(guess, size + 1), too_much - 1)
        counted = count(guess)
        rate = max(1.0, (counted - smallest) / (guess - least))
        if counted <= room:
            size, tokens = guess, counted
        else:
            too_much = guess
    return size
