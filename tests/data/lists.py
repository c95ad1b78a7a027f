"""A source of given records, and its store."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beacon_lit.data.length_rule import LengthRule
from beacon_lit.data.make_stores import make_stores
from beacon_lit.data.records import Tolerance
from beacon_lit.data.store import Store

RULE = LengthRule(min_length=4, max_length=64, window=3)


@dataclass(frozen=True)
class ListSource:
    records: list
    name: str = "list"
    limit: int | None = None
    weight: float | None = None
    answer_share: float | None = None
    read: list = field(default_factory=list)

    def key(self) -> Any:
        return [repr(record) for record in self.records]

    def documents(self, tokenizer: Any) -> Iterator[Any]:
        self.read.append(1)
        yield from self.records


def texts(count: int) -> list[dict]:
    return [{"id": f"d{i}", "text": "the quick brown fox " * (1 + i % 7)} for i in range(count)]


def store(source: ListSource, tokenizer, folder: Path, rule: LengthRule = RULE, **tolerance) -> Store:
    return make_stores([source], tokenizer, rule, Tolerance(**tolerance), folder)[0]
