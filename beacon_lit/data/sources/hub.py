"""Documents in a Hugging Face dataset, on the hub or in a folder, which is streamed."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beacon_lit.data.checks import check_limit, check_shares, check_text
from beacon_lit.data.records import Partition, SourceRecord
from beacon_lit.data.sources.columns import Columns
from beacon_lit.data.sources.files import source_key
from beacon_lit.data.sources.folders import is_saved

if TYPE_CHECKING:
    from datasets import IterableDataset

_ROWS = 64  # rows that are read together
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


@dataclass(frozen=True)
class HubSource(Columns):
    """Documents in a Hugging Face dataset, which is streamed instead of downloaded.

    The hub is contacted when records are read, not before.

    Args:
        dataset: name on the hub ("owner/name"), or a folder of files that `datasets.load_dataset` can read.
        config: one of the dataset's configurations (subsets).
        split: one of the dataset's splits.
        revision: commit, branch or tag on the hub. Default: the newest; give a commit, since cached tokens of an older
            revision are not recognised as old.
        limit, weight, answer_share: see `Source`.
        text_column, conversations_column, columns, max_bytes: see `Columns`.

    Raises:
        ValueError: a setting is out of range, or the folder does not exist.
    """

    dataset: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    limit: int | None = None
    weight: float | None = None
    answer_share: float | None = None

    def __post_init__(self) -> None:
        check_text("dataset", self.dataset)
        check_text("split", self.split)
        for name in ("config", "revision"):
            if getattr(self, name) is not None:
                check_text(name, getattr(self, name))
        check_limit(self.limit)
        check_shares(self.weight, self.answer_share)
        self.check_columns()
        if not Path(self.dataset).is_dir() and not _HUB_NAME.fullmatch(self.dataset):
            raise ValueError(f"dataset={self.dataset!r} must be a name on the hub (owner/name) or an existing folder")
        if is_saved(Path(self.dataset)):
            raise ValueError(
                f"dataset={self.dataset!r} is a folder that save_to_disk wrote; read it with data=text "
                f"'data.train=[{self.dataset}]'"
            )

    @property
    def name(self) -> str:
        return " ".join([self.dataset, *([self.config] if self.config else []), f"({self.split})"])

    def key(self) -> dict[str, Any]:
        """See `Source`. A dataset on the hub is known by name and revision, a folder by its files."""
        files = (file for file in sorted(Path(self.dataset).rglob("*")) if file.is_file())
        return source_key(self, files)

    def documents(self, tokenizer: Any = None) -> Iterator[SourceRecord]:
        """Yield all records, in the order of the files.

        Raises:
            ValueError: the dataset cannot be reached or read, or reading stops; the message names dataset and record.
        """
        for partition in self.partitions():
            yield from partition()

    def partitions(self, tokenizer: Any = None) -> Sequence[Partition]:
        """Return one partition per file; see `documents` for errors."""
        dataset = self._open()
        return [partial(self._read, dataset, number) for number in range(dataset.num_shards)]

    def _read(self, dataset: "IterableDataset", file: int) -> Iterator[SourceRecord]:
        number = 0
        try:
            # In a DataLoader's worker, the iterator of single rows would leave out rows for other workers.
            for columns in dataset.shard(dataset.num_shards, file).iter(_ROWS):
                for row in zip(*columns.values(), strict=True):
                    record, number = dict(zip(columns, row, strict=True)), number + 1
                    where = f"{self.name}, file {file + 1}, record {number}"
                    yield self.document(record, where, f"{self.dataset}:{file + 1}:{number}")
        except Exception as error:  # from many libraries: network, file systems, formats
            where = f"{self.name}, file {file + 1}, after record {number}"
            raise ValueError(f"{where}: cannot be read: {type(error).__name__}: {error}") from error

    def _open(self) -> "IterableDataset":
        from datasets import load_dataset  # imported here, since the import takes a second

        try:
            dataset = load_dataset(self.dataset, self.config, split=self.split, revision=self.revision, streaming=True)
        except Exception as error:  # from many libraries: network, hub, file systems, formats
            raise ValueError(
                f"dataset={self.dataset!r} (config={self.config!r}, split={self.split!r}, revision={self.revision!r}) "
                f"cannot be opened or reached: {type(error).__name__}: {error}"
            ) from error
        names = dataset.column_names
        if names is not None and not self.schemas(names):
            raise ValueError(f"dataset={self.dataset!r}: {self.lacking(names)}")
        return dataset
