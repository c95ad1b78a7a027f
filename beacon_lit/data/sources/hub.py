"""Any dataset of Hugging Face, by its name or in a folder, streamed."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beacon_lit.data.sample import check_int
from beacon_lit.data.sources.columns import Columns
from beacon_lit.data.sources.files import file_key
from beacon_lit.data.sources.settings import check_limit, check_shares, check_text
from beacon_lit.data.sources.stream import HubStream, Record

if TYPE_CHECKING:
    from datasets import IterableDataset

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


@dataclass(frozen=True)
class HubSource(Columns):
    """A Hugging Face dataset, streamed: nothing is downloaded as a whole.

    dataset: its name on the hub ("owner/name"), or a folder of files that `datasets.load_dataset` can read
    config: one of the dataset's configurations (subsets)
    split: one of its splits
    revision: commit, branch or tag on the hub. Without one the newest counts, and tokens that were kept of an older
        one are not recognised as old: name a commit
    shuffle_buffer: records that `stream` holds to shuffle them; 0 = it keeps the order of the files
    limit, weight, answer_share: see `beacon_lit.data.records.Source`
    text_column, conversations_column, max_bytes: see `Columns`

    Raises ValueError: a setting out of range, no such folder. The hub is first asked when records are.
    """

    dataset: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    shuffle_buffer: int = 1_000
    limit: int | None = None
    weight: float | None = None
    answer_share: float | None = None

    def __post_init__(self) -> None:
        check_text("dataset", self.dataset)
        check_text("split", self.split)
        for name in ("config", "revision"):
            if getattr(self, name) is not None:
                check_text(name, getattr(self, name))
        check_int("shuffle_buffer", self.shuffle_buffer, 0)
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
        of it is more than a bad record. So do streams.
        """
        yield from HubStream(self._open(), self._document, {"source": self.name})

    def stream(self, seed: int = 0, epoch: int = 0, rank: int = 0, world_size: int = 1) -> HubStream:
        """One rank's share of an epoch: the files in random order, and `shuffle_buffer` records at a time shuffled.

        Ranks get files of their own where their number divides that of the files, else every `world_size`-th record
        of all. They share no record, and their shares may differ in length. In a DataLoader the workers split a rank's
        files; more workers than files have nothing to do.

        The same arguments give the same stream (with the same number of workers). A resume loses and repeats nothing,
        see `HubStream.state_dict`.
        """
        from datasets.distributed import split_dataset_by_node

        check_int("seed", seed, 0)
        check_int("epoch", epoch, 0)
        check_int("world_size", world_size, 1)
        if rank not in range(world_size):
            raise ValueError(f"rank={rank!r} must be between 0 and {world_size - 1} (world_size={world_size})")
        dataset = split_dataset_by_node(self._open(), rank=rank, world_size=world_size)
        if self.shuffle_buffer:
            # `datasets` seeds the order of files with its epoch, and leaves it as it is in epoch 0. It must be the same
            # on every rank: they may take turns in it.
            dataset.set_epoch(1 + int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        settings = {"source": self.name, "revision": self.revision, "shuffle_buffer": self.shuffle_buffer}
        position_of = {"seed": seed, "epoch": epoch, "rank": rank, "world_size": world_size}
        return HubStream(dataset, self._document, settings | position_of)

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

    def _document(self, record: Any, number: int) -> Record:
        return self.document(record, f"{self.name}, record {number}", f"{self.dataset}:{number}")
