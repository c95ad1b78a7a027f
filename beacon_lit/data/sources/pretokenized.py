"""Pre-tokenised documents, in folders written by `save_to_disk` of `datasets`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from beacon_lit.data.records import MalformedError, MalformedRecord, Partition, SourceRecord
from beacon_lit.data.sources.files import FileSource, source_key
from beacon_lit.data.sources.folders import SAVED
from beacon_lit.data.sources.tokens import ANY_VOCABULARY, checked_tokens

_ROWS = 64
_MARKERS = ("dataset_info.json", SAVED)  # what save_to_disk writes beside the tokens


@dataclass(frozen=True)
class TokensSource(FileSource):
    """Pre-tokenised documents: folders of a `datasets.Dataset` with `input_ids` and optionally `labels` and `id`.

    Labels are not shifted: each is the token of the same place, or -100 for no loss. Without labels all tokens are
    trained.

    Kinds of malformed records: no_tokens, wrong_type (not a list of integers), vocabulary (ids that the tokenizer does
    not have), labels (which differ from input_ids), padding (attention_mask has a 0); for a folder empty_file.

    Args:
        path: a folder, or a glob of folders; otherwise see `FileSource`.
        data_root, weight, answer_share: see `FileSource`.

    Raises:
        ValueError: a folder without input_ids; see also `FileSource`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        for folder in self.files:
            columns = _columns(folder)
            if "input_ids" not in columns:
                raise ValueError(
                    f"path={self.path!r}: {folder} has no column input_ids, but {columns}; for text "
                    f"or conversations: data=text 'data.train=[{folder}]'"
                )

    @property
    def wanted(self) -> str:
        return "a folder written by save_to_disk (of a set with splits: one of its splits)"

    def accepts(self, file: Path) -> bool:
        return all((file / name).is_file() for name in _MARKERS)

    def key(self) -> dict[str, Any]:
        """See `Source`."""
        written = (file for folder in self.files for file in sorted(folder.iterdir()) if file.is_file())
        # `datasets` caches the results of later operations in the same folder.
        return source_key(self, (file for file in written if not file.name.startswith("cache-")))

    def partitions(self, tokenizer: Any = None) -> Sequence[Partition]:
        """Return one partition per folder; with a tokenizer, token ids out of its vocabulary are malformed."""
        vocabulary = ANY_VOCABULARY if tokenizer is None else len(tokenizer)
        return [partial(_read_folder, folder, vocabulary) for folder in self.files]


def _read_folder(folder: Path, vocabulary: int) -> Iterator[SourceRecord]:
    number = 0
    for number, row in enumerate(_rows(folder), 1):
        name = row.pop("id", None)
        try:
            yield {"id": f"{folder.name}:{number}" if name is None else str(name), **checked_tokens(row, vocabulary)}
        except MalformedError as error:
            yield MalformedRecord(error.kind, f"{folder}, record {number}", error.reason)
    if not number:
        yield MalformedRecord("empty_file", str(folder), "the folder has no records")


def _columns(folder: Path) -> list[str]:
    try:
        return list(json.loads((folder / "dataset_info.json").read_bytes())["features"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'dataset_info.json'} does not list the columns: {error!r}") from error


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    from datasets import load_from_disk  # imported here, since the import takes a second

    try:
        if not json.loads((folder / SAVED).read_bytes())["_data_files"]:
            return  # an empty dataset, which load_from_disk cannot read
        dataset = load_from_disk(str(folder)).with_format("arrow")
    except Exception as error:  # of many types, depending on the broken file
        raise ValueError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error
    names = [name for name in ("id", "input_ids", "labels", "attention_mask") if name in dataset.column_names]
    for table in dataset.select_columns(names).iter(batch_size=_ROWS):
        for row in range(len(table)):
            yield {name: table[name][row].as_py() if name == "id" else _array(table[name][row]) for name in names}


def _array(scalar: Any) -> np.ndarray | None:
    """Return a list of integers as an array; None for a null, and an array of objects for anything else."""
    if not scalar.is_valid:
        return None
    values = getattr(scalar, "values", None)
    return np.empty(0, object) if values is None else values.to_numpy(zero_copy_only=False)
