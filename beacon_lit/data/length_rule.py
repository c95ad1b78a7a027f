"""Which lengths become samples, and how text that is too long is split into pieces."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from beacon_lit.data.checks import check_int

LONG_RULES = ("split", "cut", "drop")


@dataclass(frozen=True)
class LengthRule:
    """Lengths (in tokens, special tokens included) that become samples.

    Args:
        min_length, max_length: least and most tokens of a sample.
        window: tokens of a beacon window. A sample of one window or less teaches beacons nothing and is left out.
        long: what happens to text of more than `max_length` tokens: "split" into consecutive pieces of random lengths,
            so that a model sees every length modulo the window; "cut" keeps the first `max_length` tokens; "drop"
            leaves the text out.
        seed: of the pieces' lengths.

    Raises:
        ValueError: a setting is out of range.
    """

    min_length: int
    max_length: int
    window: int
    long: str = "split"
    seed: int = 0

    def __post_init__(self) -> None:
        check_int("window", self.window, 1)
        check_int("min_length", self.min_length, 0)
        check_int("max_length", self.max_length, 1)
        check_int("seed", self.seed, 0)
        if self.max_length <= self.window:
            raise ValueError(
                f"max_length={self.max_length} leaves no sample longer than one window: must be at least "
                f"{self.window + 1} (window={self.window})"
            )
        if self.min_length > self.max_length:
            raise ValueError(f"min_length={self.min_length} must be at most max_length={self.max_length}")
        if self.long not in LONG_RULES:
            raise ValueError(f"long={self.long!r} must be one of {', '.join(LONG_RULES)}")

    @property
    def shortest(self) -> int:
        """The least number of tokens of a sample."""
        return max(self.min_length, self.window + 1)

    def meaning(self, reasons: Iterable[str]) -> str:
        """Explain the reasons for leaving text out that depend on lengths, with the limits; "" if none does."""
        meanings = {
            "too_short": f"fewer tokens than min_length={self.min_length}",
            "too_long": f"more tokens than max_length={self.max_length}",
            "within_one_window": f"at most window={self.window} tokens, which teach beacons nothing",
            "leftover": f"the end of a document, fewer than {self.shortest} tokens",
            "no_answer": f"nothing to train on behind the first window={self.window} tokens",
        }
        return "; ".join(f"{reason}: {meanings[reason]}" for reason in sorted({*reasons} & meanings.keys()))

    def too_short(self, length: int) -> str | None:
        """Return the reason to leave out a text of `length` tokens, or None to keep the text."""
        if length < self.min_length:
            return "too_short"
        return "within_one_window" if length <= self.window else None


def text_pieces(
    ids: np.ndarray, rule: LengthRule, rng: np.random.Generator, bos: int | None, left_out: Counter[str]
) -> list[np.ndarray]:
    """Split the text of one document into the pieces that become samples.

    Args:
        ids: (L,) int32, the text's token ids, end of text included.
        rule: lengths of samples, and what happens to longer text.
        rng: draws the lengths.
        bos: token id; every piece of a document that starts with this token starts with it.
        left_out: counts text that does not become a sample, by reason.
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
    """Draw lengths between `low` and `high` that sum to `total`, which is more than `high`.

    Where no such lengths exist, fewer than `low` tokens are left over.
    """
    lengths = []
    while total > high:
        # Leave enough for another piece where possible.
        lengths.append(high if total < 2 * low else int(rng.integers(low, min(high, total - low) + 1)))
        total -= lengths[-1]
    return [*lengths, total] if total >= low else lengths
