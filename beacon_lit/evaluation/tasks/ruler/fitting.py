"""How much of something fits."""

from collections.abc import Callable

_GUESSES = 12


def largest(count: Callable[[int], int], least: int, room: int) -> int:
    """The largest size whose tokens fit; less than `room`, as all that a size counts takes a token.

    Tokens grow about evenly with the size, so a few guesses are enough; where they do not, what is left is halved.

    Args:
        count: tokens of a size.
        least: the smallest size.
        room: tokens.

    Raises:
        ValueError: not even the smallest size fits.
    """
    smallest = count(least)
    if smallest > room:
        raise ValueError(f"{smallest} tokens at the least")
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
