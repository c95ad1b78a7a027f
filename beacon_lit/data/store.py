"""Samples on disk: a source is tokenised once, into an Arrow file that every process maps into memory."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter
from filelock import FileLock
from tqdm import tqdm  # type: ignore[import-untyped]

from beacon_lit.data.length_rule import LengthRule
from beacon_lit.data.records import SkippedRecords, Source, Tolerance, read_documents
from beacon_lit.data.sample import Sample
from beacon_lit.data.tokenize import make_samples, tokenizer_key

FORMAT = 2  # part of every key; raise the number when the content of stores changes
SAMPLES, ABOUT = "samples.arrow", "about.json"
# Loss weights are a few spans of equal values: `starts`, `ends` and `weights` of the spans that are not 0.
FEATURES = Features({
    "id": Value("string"), "input_ids": List(Value("int32")), "length": Value("int32"),
    "starts": List(Value("int32")), "ends": List(Value("int32")), "weights": List(Value("float32")),
})  # fmt: skip
_WRITE_ROWS = 64  # samples that are written together


class Store:
    """The samples of one source.

    Attributes:
        folder: written by `make_store`.
        left_out: number of documents that are left out, by reason.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.left_out: Counter[str] = Counter(json.loads((folder / ABOUT).read_text())["left_out"])
        self.rows = Dataset.from_file(str(folder / SAMPLES)).with_format("arrow")

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(n,) int32, tokens of each sample."""
        return self.rows.data.column("length").to_numpy()

    @cached_property
    def trained(self) -> np.ndarray:
        """(n,) int64, trained tokens of each sample."""
        starts, ends = (self.rows.data.column(name).combine_chunks() for name in ("starts", "ends"))
        upto = np.append(0, np.cumsum(ends.flatten().to_numpy() - starts.flatten().to_numpy(), dtype=np.int64))
        borders = np.append(0, np.cumsum(starts.value_lengths().to_numpy()))
        return upto[borders[1:]] - upto[borders[:-1]]

    def __getitem__(self, index: int) -> Sample:
        row = self.rows[int(index)]
        ids, *parts = (row[name][0].values.to_numpy() for name in ("input_ids", "starts", "ends", "weights"))
        weights = np.zeros(len(ids), np.float32)
        for start, end, weight in zip(*parts, strict=True):
            weights[start:end] = weight
        return Sample(row["id"][0].as_py(), ids, weights)


def make_store(source: Source, tokenizer: Any, rule: LengthRule, tolerance: Tolerance, cache: Path) -> Store:
    """Tokenise a source into a store, or find the store on disk.

    The key of a store is all that samples depend on: the source's files and settings, the tokenizer and its chat
    template, the rule. A store appears whole or not at all; other processes wait for the first that makes the store.

    Args:
        source: where documents come from.
        tokenizer: a Hugging Face tokenizer with an end-of-text token.
        rule: lengths of samples.
        tolerance: how many malformed records are skipped.
        cache: the folder of all stores.

    Raises:
        ValueError: too many malformed records; the message names file and line.
    """
    folder = cache / store_key(source, tokenizer, rule)
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            left_out: Counter[str] = Counter()
            skipped = SkippedRecords(tolerance, source.name, left_out)
            documents = read_documents(source, tokenizer, skipped)
            shown = tqdm(documents, desc=f"tokenising {source.name}", unit=" documents", leave=False, disable=None)
            samples = make_samples(shown, tokenizer, rule, skipped, source.answer_share)
            _write(samples, partial / SAMPLES)
            skipped.finish()
            about = {"source": source.name, "left_out": left_out}
            (partial / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
            partial.rename(folder)
    return Store(folder)


def store_key(source: Source, tokenizer: Any, rule: LengthRule) -> str:
    """Return the name of a source's store."""
    tokens = [tokenizer_key(tokenizer), tokenizer.chat_template]
    parts = [FORMAT, source.key(), source.answer_share, vars(rule), tokens]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _write(samples: Iterable[Sample], file: Path) -> None:
    with ArrowWriter(path=str(file), features=FEATURES, writer_batch_size=_WRITE_ROWS) as writer:
        for sample in samples:
            starts, ends, weights = spans(sample.weights)
            writer.write({
                "id": sample.id, "input_ids": sample.input_ids, "length": len(sample),
                "starts": starts, "ends": ends, "weights": weights,
            })  # fmt: skip
        writer.finalize()


def spans(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Convert (L,) weights to starts, ends and values of the spans that are not 0."""
    edges = np.flatnonzero(np.diff(weights, prepend=0, append=0))
    starts, ends = edges[:-1], edges[1:]
    kept = weights[starts] != 0
    return starts[kept].astype(np.int32), ends[kept].astype(np.int32), weights[starts[kept]].astype(np.float32)
