"""Number, lengths and order of the pieces that each source of a corpus provides."""

import re
import zlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from math import floor

import numpy as np

UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def parse_amounts(text: str) -> dict[int, int]:
    """Parse amounts such as "8192:500M 20480:1.5B": 500 million tokens in pieces of 8,192 tokens, and so on.

    Returns:
        Tokens by length of the pieces.

    Raises:
        ValueError: another form, a length given twice, a fraction of a token.
    """
    amounts: dict[int, int] = {}
    for item in str(text).split():
        match = re.fullmatch(rf"(\d+):(\d+(?:\.\d+)?)([{''.join(UNITS)}]?)", item)
        tokens = Decimal(match[2]) * UNITS[match[3]] if match else Decimal(0)
        if not match or int(match[1]) < 1 or tokens < 1 or tokens % 1:
            raise ValueError(
                f"amounts={text!r}: {item!r} must be LENGTH:AMOUNT in whole tokens, such as 8192:500M (K, M, B or T)"
            )
        if int(match[1]) in amounts:
            raise ValueError(f"amounts={text!r}: each length must be given once, {match[1]} is given twice")
        amounts[int(match[1])] = int(tokens)
    if not amounts:
        raise ValueError(f"amounts={text!r} must name at least one LENGTH:AMOUNT, such as 8192:500M")
    return amounts


def parse_mixture(names: Sequence[str], mixture: Mapping[str, float] | None) -> dict[str, Fraction]:
    """Convert shares in per cent to the share of each source, 0 to 1; None = equal shares.

    Raises:
        ValueError: a source without a share, a share without a source or below 0, a sum other than 100.
    """
    if mixture is None:
        return {name: Fraction(1, len(names)) for name in names}
    if set(mixture) != set(names):
        raise ValueError(f"mixture={dict(mixture)} must have a share for each of the sources {', '.join(names)}")
    shares = {name: Fraction(str(mixture[name])) for name in names}
    if min(shares.values()) < 0 or sum(shares.values()) != 100:
        total = float(sum(shares.values()))
        raise ValueError(
            f"mixture={dict(mixture)} must be shares in per cent, 0 or more, that sum to 100, not {total:g}"
        )
    return {name: share / 100 for name, share in shares.items()}


def allot(amounts: Mapping[int, int], shares: Mapping[str, Fraction]) -> dict[str, dict[int, int]]:
    """Allot pieces to sources: as few as hold the amounts, and each source's share exact to less than one piece.

    Returns:
        Number of pieces by source and length.
    """
    allotted: dict[str, dict[int, int]] = {name: {} for name in shares}
    for length, tokens in amounts.items():
        pieces = -(-tokens // length)
        exact = {name: share * pieces for name, share in shares.items()}
        left = pieces - sum(floor(value) for value in exact.values())
        by_remainder = sorted(exact, key=lambda name: floor(exact[name]) - exact[name])  # the largest first
        for name, value in exact.items():
            allotted[name][length] = floor(value) + (name in by_remainder[:left])
    return allotted


def piece_lengths(needed: Mapping[int, int], seed: int, name: str) -> np.ndarray:
    """Shuffle the lengths of a source's pieces, (pieces,) int64: the order in which the pieces are cut."""
    lengths = np.repeat(np.array(list(needed), np.int64), list(needed.values()))
    return np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(lengths)


def shard_bounds(lengths: np.ndarray, shard_tokens: int) -> list[tuple[int, int]]:
    """Divide pieces into shards: [first, last) of as many as fit into `shard_tokens`, but at least one piece each."""
    ends = np.cumsum(lengths)
    bounds: list[tuple[int, int]] = []
    first = 0
    while first < len(lengths):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + shard_tokens, side="right")))
        bounds.append((first, last))
        first = last
    return bounds
