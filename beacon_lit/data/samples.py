"""All samples of several sources, tokenised: which of them count, and what was left out."""

import logging
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_only

from beacon_lit.data.records import Source, Tolerance
from beacon_lit.data.sample import LengthRule, Sample
from beacon_lit.data.store import Store, make_store

log = logging.getLogger(__name__)


def make_corpus(
    split: str, sources: Sequence[Source], tokenizer: Any, rule: LengthRule, tolerance: Tolerance, cache: Path
) -> "Corpus":
    """The samples of some sources; logs how many there are, and what was left out for which reason.

    split: "train" or "validation", for messages
    Raises ValueError: see `make_store`; no samples at all, or none of a training source with a weight.
    """
    stores = [make_store(source, tokenizer, rule, tolerance, cache) for source in sources]
    corpus = Corpus(
        [(store, drawn(len(store), source, rule.seed)) for store, source in zip(stores, sources, strict=True)]
    )
    left_out = sum((store.left_out for store in stores), Counter())
    left_out["not_drawn"] = sum(map(len, stores)) - len(corpus)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted((+left_out).items())) or "nothing"
    if not len(corpus):
        raise ValueError(
            f"{split}: no text fits min_length={rule.min_length}, max_length={rule.max_length}, "
            f"window={rule.window}; left out: {reasons}"
        )
    for source, (_, rows) in zip(sources, corpus.parts, strict=True):
        if split == "train" and source.weight is not None and not len(rows):
            raise ValueError(
                f"weight={source.weight} of {source.name} must be null: no sample of it is left; {reasons}"
            )
    _log(split, np.concatenate(corpus.lengths), reasons)
    return corpus


def drawn(count: int, source: Source, seed: int) -> np.ndarray:
    """Which of `count` samples a source's limit leaves, at random, in their order."""
    if source.limit is None or source.limit >= count:
        return np.arange(count)
    rng = np.random.default_rng([seed, zlib.crc32(source.name.encode())])
    return np.sort(rng.choice(count, size=source.limit, replace=False))


class Corpus(Sequence[Sample]):
    """Several stores as one sequence of samples.

    parts: for each source its store and the rows of it that count
    """

    def __init__(self, parts: list[tuple[Store, np.ndarray]]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *(len(rows) for _, rows in parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        store, rows = self.parts[part]
        return store[rows[index - self.starts[part]]]

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def lengths(self) -> list[np.ndarray]:
        """Of each part, the tokens of its samples."""
        return [store.lengths[rows] for store, rows in self.parts]


@rank_zero_only
def _log(split: str, lengths: np.ndarray, reasons: str) -> None:
    log.info(
        f"{split}: {len(lengths):,} samples, {lengths.sum():,} tokens (shortest {lengths.min():,}, "
        f"median {int(np.median(lengths)):,}, longest {lengths.max():,}); left out: {reasons}"
    )
