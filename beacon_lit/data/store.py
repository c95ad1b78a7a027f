"""Samples on disk: a source is tokenised once, into an Arrow file that every process maps into memory."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter

from beacon_lit.data.length_rule import LengthRule
from beacon_lit.data.records import Source
from beacon_lit.data.sample import Sample

FORMAT = 2  # part of every key; raise the number when the content of stores changes
SAMPLES, ABOUT = "samples.arrow", "about.json"
# Loss weights are a few spans of equal values: `starts`, `ends` and `weights` of the spans that are not 0.
FEATURES = Features({
    "id": Value("string"), "input_ids": List(Value("int32")), "length": Value("int32"),
    "starts": List(Value("int32")), "ends": List(Value("int32")), "weights": List(Value("float32")),
})  # fmt: skip
_WRITE_ROWS = 64  # samples that are written together

Row = dict[str, Any]  # a sample as a store has it, by the names of FEATURES


class Store:
    """The samples of one source.

    Attributes:
        folder: written by `make_stores`.
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


def store_key(source: Source, tokens: Any, rule: LengthRule) -> str:
    """Return the name of a source's store; `tokens` is all that tokens depend on: tokenizer and chat template."""
    parts = [FORMAT, source.key(), source.answer_share, vars(rule), tokens]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def store_row(sample: Sample) -> Row:
    """Convert a sample to a row of a store."""
    starts, ends, weights = spans(sample.weights)
    return {
        "id": sample.id, "input_ids": sample.input_ids, "length": len(sample),
        "starts": starts, "ends": ends, "weights": weights,
    }  # fmt: skip


def write_rows(rows: Iterable[Row], file: Path) -> None:
    """Write the rows of a store."""
    with ArrowWriter(path=str(file), features=FEATURES, writer_batch_size=_WRITE_ROWS) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()


def spans(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Convert (L,) weights to starts, ends and values of the spans that are not 0."""
    edges = np.flatnonzero(np.diff(weights, prepend=0, append=0))
    starts, ends = edges[:-1], edges[1:]
    kept = weights[starts] != 0
    return starts[kept].astype(np.int32), ends[kept].astype(np.int32), weights[starts[kept]].astype(np.float32)
