"""Any dataset of Hugging Face, by its name or in a folder, streamed."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beacon_lit.data.records import Record, Shard
from beacon_lit.data.sources.columns import Columns
from beacon_lit.data.sources.files import file_key
from beacon_lit.data.sources.settings import check_limit, check_shares, check_text

if TYPE_CHECKING:
    from datasets import IterableDataset

_ROWS = 64  # read at a time
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


@dataclass(frozen=True)
class HubSource(Columns):
    """A Hugging Face dataset, streamed: nothing is downloaded as a whole.

    dataset: its name on the hub ("owner/name"), or a folder of files that `datasets.load_dataset` can read
    config: one of the dataset's configurations (subsets)
    split: one of its splits
    revision: commit, branch or tag on the hub. Without one the newest counts, and tokens that were kept of an older
        one are not recognised as old: name a commit
    limit, weight, answer_share: see `beacon_lit.data.records.Source`
    text_column, conversations_column, max_bytes: see `Columns`

    Raises ValueError: a setting out of range, no such folder. The hub is first asked when records are.
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

    @property
    def name(self) -> str:
        return " ".join([self.dataset, *([self.config] if self.config else []), f"({self.split})"])

    def key(self) -> dict[str, Any]:
        """JSON-able. Of a folder: its files; of a dataset on the hub: its name and revision."""
        files = (file for file in sorted(Path(self.dataset).rglob("*")) if file.is_file())
        settings = {name: getattr(self, name) for name in ("dataset", "config", "split", "revision")}
        return {"source": type(self).__name__, **settings, **self.columns, "files": file_key(files)}

    def documents(self, tokenizer: Any = None) -> Iterator[Record]:
        """All records, in the order of the files. `tokenizer` is not used.

        Raises ValueError naming the dataset and the record if it cannot be reached or read, or not any more: the rest
        of it is more than a bad record. So do shards.
        """
        for shard in self.shards():
            yield from shard()

    def shards(self, tokenizer: Any = None) -> Sequence[Shard]:
        """The files, each to be read apart."""
        dataset = self._open()
        return [partial(self._read, dataset, number) for number in range(dataset.num_shards)]

    def _read(self, dataset: "IterableDataset", shard: int) -> Iterator[Record]:
        number = 0
        try:
            # Not the iterator of single rows: within a DataLoader's worker that leaves out what it deems the others'.
            for columns in dataset.shard(dataset.num_shards, shard).iter(_ROWS):
                for row in zip(*columns.values(), strict=True):
                    record, number = dict(zip(columns, row, strict=True)), number + 1
                    where = f"{self.name}, file {shard + 1}, record {number}"
                    yield self.document(record, where, f"{self.dataset}:{shard + 1}:{number}")
        except Exception as error:  # of many libraries: of the network, file systems and formats
            where = f"{self.name}, file {shard + 1}, after record {number}"
            raise ValueError(f"{where}: cannot be read: {type(error).__name__}: {error}") from error

    def _open(self) -> "IterableDataset":
        from datasets import load_dataset  # here: it takes a second to import

        try:
            dataset = load_dataset(self.dataset, self.config, split=self.split, revision=self.revision, streaming=True)
        except Exception as error:  # of many libraries: of the network, the hub, file systems and formats
            raise ValueError(
                f"dataset={self.dataset!r} (config={self.config!r}, split={self.split!r}, revision={self.revision!r}) "
                f"cannot be opened or reached: {type(error).__name__}: {error}"
            ) from error
        names = dataset.column_names
        if names is not None and not {self.text_column, self.conversations_column} & set(names):
            raise ValueError(
                f"dataset={self.dataset!r} has neither text_column={self.text_column!r} nor "
                f"conversations_column={self.conversations_column!r}, but {names}"
            )
        return dataset
