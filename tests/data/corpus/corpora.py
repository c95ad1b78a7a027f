"""A small corpus of made-up text."""

import random
from dataclasses import dataclass

from beacon_lit.data.corpus.corpus import Corpus
from beacon_lit.data.records import MalformedRecord

BAD = MalformedRecord("invalid_json", "made-up, line 1", "no JSON")


@dataclass(frozen=True)
class Texts:
    """Documents of one letter and random lengths, with a malformed record behind every 50th."""

    letter: str
    count: int
    longest: int = 300
    limit: int | None = None
    weight: float | None = None
    answer_share: float | None = None

    @property
    def name(self):
        return f"texts of {self.letter}"

    def key(self):
        return ["Texts", self.letter, self.count, self.longest]

    def documents(self, tokenizer):
        rng = random.Random(self.letter)
        for i in range(self.count):
            yield {"id": str(i), "text": self.letter * rng.randint(1, self.longest)}
            if i % 50 == 49:
                yield BAD


def corpus(**changes) -> Corpus:
    settings = dict(
        sources={"a": Texts("a", 400), "b": Texts("b", 800)}, amounts="64:20K 100:30K", mixture={"a": 30, "b": 70},
        shard_tokens=2500, seed=1,
    )  # fmt: skip
    return Corpus(**settings | changes)
