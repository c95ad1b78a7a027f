"""Make the task Recall: records scattered in noise, each of which is asked for once later.

    n3 n7 KEY k5 v1 v0 v2 v2 n1 KEY k2 v3 v0 v0 v1 n4 n4 n0 ASK k5 v1 v0 v2 v2 n6 ... ASK k2 v3 v0 v0 v1

There are few values, so the answers of several records begin alike: the start of an answer does not reveal the key.
"""

import random
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from beacon_lit.checks import is_count

IGNORED = -100  # label of a token that is not scored


@dataclass(frozen=True)
class Recall:
    """Settings of the task. Token ids are `[noise | keys | values | KEY | ASK]`.

    Args:
        records: largest number of records in a row.
        keys, values, noise: number of tokens of each kind.
        answer: number of values in a record.

    Raises:
        ValueError: a setting below 1, fewer than 2 records, or more records than keys.
    """

    records: int = 4
    keys: int = 16
    values: int = 4
    noise: int = 16
    answer: int = 4

    def __post_init__(self) -> None:
        for field in fields(self):
            check_count(field.name, getattr(self, field.name), 1)
        check_count("records", self.records, 2, self.keys)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self.noise + self.keys + self.values + 2

    @property
    def question(self) -> int:
        """Tokens of a question: the ASK token and the key."""
        return 2

    @property
    def key_mark(self) -> int:
        """The first token of a record."""
        return self.vocabulary - 2

    @property
    def ask_mark(self) -> int:
        """The first token of a question."""
        return self.vocabulary - 1

    def least(self, records: int) -> int:
        """Count the tokens of a row without noise: each record, and its question with the answer."""
        return 2 * records * (self.question + self.answer)

    def parted(self, window: int, overlap: int = 0) -> list[int]:
        """Return the prompt lengths, modulo the window, at which a border hides the question from part of the answer.

        With i tokens of the answer before the border, the full, open window still predicts the next token. That token
        closes the window, and the rest is predicted without the question, unless the overlap reaches back to it.
        """
        return [-i % window for i in range(self.answer - 1) if self.question + i > overlap]

    def batch(
        self, rng: random.Random, rows: int, length: int, records: int, at_end: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Draw rows.

        Args:
            rng: source of randomness.
            rows: number of rows, B.
            length: exact length of each row, L.
            records: number of records in each row.
            at_end: whether the last answer ends the row; otherwise noise may follow.

        Returns:
            Ids and labels, both (B, L) int64; labels are -100 except for the values of answers.

        Raises:
            ValueError: no rows, more records than keys, or a length too short for the records.
        """
        check_count("rows", rows, 1)
        check_count("records", records, 1, self.keys)
        check_count("length", length, self.least(records))
        ids, labels = zip(*(self._row(rng, length, records, at_end) for _ in range(rows)), strict=True)
        return torch.tensor(ids), torch.tensor(labels)

    def _row(self, rng: random.Random, length: int, records: int, at_end: bool) -> tuple[list[int], list[int]]:
        first_value = self.noise + self.keys
        keys = rng.sample(range(self.noise, first_value), records)
        answers = {key: [first_value + rng.randrange(self.values) for _ in range(self.answer)] for key in keys}
        order = keys * 2
        rng.shuffle(order)  # the second occurrence of a key is its question
        free = length - self.least(records)
        spots = sorted(rng.randint(0, free) for _ in order)  # noise tokens before each record and question
        if at_end:
            spots[-1] = free
        ids: list[int] = []
        labels: list[int] = []
        seen: set[int] = set()
        for key, before, spot in zip(order, [0, *spots], spots, strict=False):
            asked = key in seen
            gap = [rng.randrange(self.noise) for _ in range(spot - before)]
            ids += [*gap, self.ask_mark if asked else self.key_mark, key, *answers[key]]
            labels += [IGNORED] * (len(gap) + self.question) + (answers[key] if asked else [IGNORED] * self.answer)
            seen.add(key)
        tail = length - len(ids)
        return ids + [rng.randrange(self.noise) for _ in range(tail)], labels + [IGNORED] * tail


def check_count(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise a ValueError unless `value` is an integer of at least `least` and at most `most`."""
    if not is_count(value, least) or (most is not None and value > most):  # type: ignore[operator]
        upto = "" if most is None else f" and <= {most}"
        raise ValueError(f"{name}={value!r} is not allowed; allowed: an integer >= {least}{upto}")
