"""Sources of text for haystacks, and the samples of a synthetic source."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from beacon_lit.data.retrieval import made_up
from beacon_lit.data.sources.synthetic import SyntheticSource

LENGTHS = (1200, 1700)


@dataclass(frozen=True)
class Texts:
    """A source of given records."""

    records: tuple
    name: str = "texts"
    limit: int | None = None
    weight: float | None = None
    answer_share: float | None = None

    def key(self):
        return ["Texts", [str(record) for record in self.records]]

    def documents(self, tokenizer) -> Iterator:
        yield from self.records


def prose(seed: int, count: int = 40) -> Texts:
    rng = random.Random(seed)
    texts = (" ".join(made_up.sentence(rng) for _ in range(30)) for _ in range(count))
    return Texts(tuple({"id": str(i), "text": text} for i, text in enumerate(texts)))


def run(generator):
    """What a generator returns, and what it yields."""
    found = []
    while True:
        try:
            found.append(next(generator))
        except StopIteration as stop:
            return stop.value, found


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last of each run of True, the last exclusive."""
    edges = np.flatnonzero(np.diff(mask.astype(int), prepend=0, append=0))
    return [tuple(edge) for edge in edges.reshape(-1, 2).tolist()]


def samples(source: SyntheticSource, tokenizer) -> list:
    prompt_format = source.prompt_format(tokenizer)
    pool, _ = run(source.pool(tokenizer))
    return [source.sample(prompt_format, pool, index) for index in range(source.count)]
