"""The dataset of a split: the tokenised samples of all its sources, one behind the other."""

import zlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beacon_lit.data.length_rule import LengthRule
from beacon_lit.data.make_stores import make_stores
from beacon_lit.data.records import SkippedRecords, Source, Tolerance, read_documents
from beacon_lit.data.sample import Sample
from beacon_lit.data.statistics import SourceStatistics, statistics
from beacon_lit.data.store import Store
from beacon_lit.data.tokenize import tokenize_documents


class Part(NamedTuple):
    """The samples of one source.

    Attributes:
        name: of the source.
        store: all samples of the source.
        rows: (n,) int64, the samples of the store that belong to the dataset.
    """

    name: str
    store: Store
    rows: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int32, tokens of each sample."""
        return self.store.lengths[self.rows]

    @property
    def left_out(self) -> Counter[str]:
        """Documents and samples that are left out, by reason."""
        return self.store.left_out + Counter(not_drawn=len(self.store) - len(self.rows))


class SampleDataset(Sequence[Sample]):
    """The samples of several sources as one sequence."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self._starts = np.cumsum([0, *(len(part.rows) for part in parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        part = self.parts[number]
        return part.store[part.rows[index - self._starts[number]]]

    @cached_property
    def lengths(self) -> list[np.ndarray]:
        """Tokens of the samples, an array for each source."""
        return [part.lengths for part in self.parts]

    def statistics(self) -> list[SourceStatistics]:
        """Summarise the samples, source by source."""
        trained = (part.store.trained[part.rows] for part in self.parts)
        names = [part.name for part in self.parts]
        return statistics(
            zip(names, self.lengths, trained, strict=True), {part.name: part.left_out for part in self.parts}
        )

    @property
    def left_out(self) -> str:
        """Documents and samples of all sources that are left out, by reason, in words."""
        return ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.reasons.items())) or "nothing"

    @property
    def reasons(self) -> Counter[str]:
        """Documents and samples of all sources that are left out, by reason."""
        return sum((part.left_out for part in self.parts), Counter[str]())

    @property
    def description(self) -> str:
        """Numbers and lengths of the samples, for the log."""
        lengths = np.concatenate(self.lengths)
        return (
            f"{len(lengths):,} samples, {lengths.sum():,} tokens (shortest {lengths.min():,}, "
            f"median {int(np.median(lengths)):,}, longest {lengths.max():,}); left out: {self.left_out}"
        )


def make_dataset(
    split: str,
    sources: Sequence[Source],
    tokenizer: Any,
    rule: LengthRule,
    tolerance: Tolerance,
    cache: Path,
    workers: int = 1,
) -> SampleDataset:
    """Tokenise the sources of a split, or find their samples in the cache.

    Args:
        split: "train" or "validation".
        sources, tokenizer, rule, tolerance, cache, workers: see `make_stores`.

    Raises:
        ValueError: no sample at all, or none of a training source with a weight; see also `make_stores`.
    """
    stores = make_stores(sources, tokenizer, rule, tolerance, cache, workers)
    dataset = SampleDataset(
        [
            Part(source.name, store, drawn(len(store), source, rule.seed))
            for source, store in zip(sources, stores, strict=True)
        ]
    )
    if not len(dataset):
        raise ValueError(
            f"{split}: no text fits min_length={rule.min_length}, max_length={rule.max_length}, "
            f"window={rule.window}; left out: {dataset.left_out} ({rule.meaning(dataset.reasons)})"
        )
    for source, part in zip(sources, dataset.parts, strict=True):
        if split == "train" and source.weight is not None and not len(part.rows):
            raise ValueError(
                f"weight={source.weight} of {source.name} must be null: no sample of the source is left; "
                f"left out: {dataset.left_out}"
            )
    return dataset


def drawn(count: int, source: Source, seed: int) -> np.ndarray:
    """Draw as many of `count` samples as the source's limit allows: their indices, in ascending order."""
    if source.limit is None or source.limit >= count:
        return np.arange(count)
    rng = np.random.default_rng([seed, zlib.crc32(source.name.encode())])
    return np.sort(rng.choice(count, size=source.limit, replace=False))


def whole_documents(
    sources: Sequence[Source], tokenizer: Any, seed: int, tolerance: Tolerance, log_malformed: bool = True
) -> list[tuple[str, list[int]]]:
    """Tokenise the documents of some sources as a whole, without special tokens (a chat template writes its own).

    Args:
        sources: their limits apply to documents.
        tokenizer: a Hugging Face tokenizer.
        seed: draws the documents of sources with a limit.
        tolerance: how many malformed records are skipped.
        log_malformed: whether to log malformed records.

    Returns:
        (id, token ids) of each document.
    """
    found = []
    for source in sources:
        skipped = SkippedRecords(tolerance, source.name, Counter(), log=log_malformed)
        documents = list(read_documents(source, tokenizer, skipped))
        documents = [documents[i] for i in drawn(len(documents), source, seed)]
        tokenized = tokenize_documents(documents, tokenizer, skipped, start=False)
        found += [(document["id"], ids.tolist()) for document, ids, _, _ in tokenized]
    return found
