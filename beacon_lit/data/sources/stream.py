"""A stream of records whose position can be kept."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import IterableDataset as TorchIterableDataset

from beacon_lit.data.records import BadRecord, Document

if TYPE_CHECKING:
    from datasets import IterableDataset

Record = Document | BadRecord

_BLOCK = 64  # records read at a time where nothing is shuffled


class HubStream(TorchIterableDataset):
    """Documents and bad records of a stream, from its start or where it is resumed. A torch IterableDataset.

    Records are numbered as they are read: if files are shuffled or shared out, the number says nothing about the place
    in a file, and serves as an id only where records have none.

    dataset: an `IterableDataset` of `datasets`
    document: (record, number) -> document or bad record
    identity: what the order depends on; with `shuffle_buffer` (default 0), `seed` and `epoch`
    """

    def __init__(
        self, dataset: "IterableDataset", document: Callable[[Any, int], Record], identity: dict[str, Any]
    ) -> None:
        self._dataset, self._document, self._identity = dataset, document, identity
        self._start: dict[str, Any] = {"dataset": None, "number": 0, "done": 0}
        self._position = self._start

    def __iter__(self) -> Iterator[Record]:
        # A block is read and shuffled as a whole: to read it again is all that it takes to resume within it. (A buffer
        # that is refilled all the time, as that of `datasets`, loses and repeats records then.)
        self._position = self._start
        records = iter(self._dataset)
        state, number, done = (self._start[name] for name in ("dataset", "number", "done"))
        while block := self._read_block(records, number):
            for index in self._order(number, len(block))[done:]:
                done += 1
                self._position = {"dataset": state, "number": number, "done": done}
                yield self._document(block[index], number + index + 1)
            state, number, done = self._dataset.state_dict(), number + len(block), 0

    def _order(self, number: int, size: int) -> list[int]:
        if not self._identity.get("shuffle_buffer"):
            return list(range(size))
        rng = np.random.default_rng([self._identity["seed"], self._identity["epoch"], number])
        return rng.permutation(size).tolist()

    def _read_block(self, records: Iterator[Any], number: int) -> list[Any]:
        block: list[Any] = []
        try:
            block.extend(islice(records, self._identity.get("shuffle_buffer") or _BLOCK))
        except Exception as error:  # of many libraries: of the network, file systems and formats
            where = f"{self._identity['source']}, after record {number + len(block)}"
            raise ValueError(f"{where}: cannot be read: {type(error).__name__}: {error}") from error
        return block

    def state_dict(self) -> dict[str, Any]:
        """The position (JSON-able), to be given to a stream of the same arguments.

        The resumed stream is exactly the rest of this one; it reads at most `shuffle_buffer` records again. Workers of
        a DataLoader each have a position of their own, which their copies of the stream know.
        """
        return {"identity": self._identity, **self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue there. Raises ValueError if the stream is not the one whose position that is."""
        for name, value in self._identity.items():
            if state["identity"][name] != value:
                was = state["identity"][name]
                raise ValueError(f"{name}={value!r} differs from the stream that is resumed, which had {name}={was!r}")
        self._start = self._position = {name: state[name] for name in self._start}
        if self._start["dataset"] is not None:
            self._dataset.load_state_dict(self._start["dataset"])
