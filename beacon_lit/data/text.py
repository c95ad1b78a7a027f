"""Plain text -> pieces of tokens of the lengths that a rule asks for."""

from collections import Counter

import numpy as np

from beacon_lit.data.sample import LengthRule


def text_pieces(
    ids: np.ndarray, rule: LengthRule, rng: np.random.Generator, bos: int | None, left_out: Counter[str]
) -> list[np.ndarray]:
    """The pieces of one document (its token ids, end of text included) that become samples.

    A document that starts with `bos` has it at the start of every piece. `left_out` counts what does not become a
    sample, by reason.
    """
    if reason := rule.too_short(len(ids)):
        left_out[reason] += 1
        return []
    if len(ids) <= rule.max_length:
        return [ids]
    if rule.long == "drop":
        left_out["too_long"] += 1
        return []
    if rule.long == "cut":
        return [ids[: rule.max_length]]
    head = ids[:1] if ids[0] == bos else ids[:0]
    body = ids[len(head) :]
    lengths = split_lengths(len(body), rule.shortest - len(head), rule.max_length - len(head), rng)
    ends = np.cumsum(lengths).tolist()
    left_out["leftover"] += ends[-1] < len(body)
    return [np.concatenate([head, body[end - length : end]]) for length, end in zip(lengths, ends, strict=True)]


def split_lengths(total: int, low: int, high: int, rng: np.random.Generator) -> list[int]:
    """Random lengths between `low` and `high` for `total`, which is more than `high`.

    They sum to `total`; where no such lengths exist, less than `low` is left over.
    """
    lengths = []
    while total > high:
        # Where it can be done, leave enough for one piece more.
        lengths.append(high if total < 2 * low else int(rng.integers(low, min(high, total - low) + 1)))
        total -= lengths[-1]
    return [*lengths, total] if total >= low else lengths
