"""A loader that serves the batches of a stream, and continues where a checkpoint left off."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch.utils.data import IterableDataset, get_worker_info

from beacon_lit.data.collate import collate
from beacon_lit.data.loader import check_identity, torch_loader, with_step_weight
from beacon_lit.data.share import Share
from beacon_lit.data.stream.blocks import BatchPosition, StreamMixture
from beacon_lit.data.stream.reader import RecordPosition

T = TypeVar("T")


class StreamLoader:
    """Iterates over a rank's batches, without end.

    Each worker reads its own share of the sources, and the batches come from the workers in turn: the batches depend on
    the numbers of ranks and workers. A reader holds two blocks, the current one and the next.

    Args:
        mixture: where batches come from.
        pad_id: token id of padding.
        num_workers: processes that read and tokenise; 0 = a thread of this process reads and tokenises.
        share: this rank's share of the batches.
        trained: returns how many batches were trained on; default: as many as were handed out. See `TrainLoader`.

    Attributes:
        position: batches of whole optimizer steps that were trained on (on this rank), as far as known.
    """

    def __init__(
        self,
        mixture: StreamMixture,
        pad_id: int,
        num_workers: int = 0,
        share: Share = Share(),  # noqa: B008  # frozen
        trained: Callable[[], int] | None = None,
    ) -> None:
        self.mixture, self.pad_id, self.num_workers, self.share = mixture, pad_id, num_workers, share
        self.position = 0
        self._readers = [mixture.start] * max(1, num_workers)  # the position of each reader behind these batches
        self._fetched: deque[tuple[int, BatchPosition]] = deque()  # (reader, its position) behind every later batch
        self._handed_out = 0  # batches of this iteration
        self._trained, self._begin = trained, (0, 0)  # `trained()` and `position` at the start of this iteration

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._settle()
        self._restart()
        for batch in with_step_weight(self._fetch(), self.share.accumulate):
            self._settle()
            self._handed_out += 1
            yield batch

    def _fetch(self) -> Iterator[dict[str, Any]]:
        readers = _Readers(self.mixture, self.pad_id, self._readers, self.position, self.share)
        for item in torch_loader(readers, self.num_workers, batch_size=None, collate_fn=_unchanged):
            if isinstance(item, ValueError):
                raise item
            reader, position, batch = item
            self._fetched.append((reader, position))
            yield batch

    def _restart(self) -> None:
        self._fetched.clear()  # batches that were never trained on come again
        self._handed_out, self._begin = 0, (0 if self._trained is None else self._trained(), self.position)

    def _settle(self) -> None:
        """Move the positions behind the optimizer steps that were trained on."""
        before, position = self._begin
        trained = self._handed_out if self._trained is None else self._trained() - before
        while self._fetched and self.position < position + trained // self.share.accumulate * self.share.accumulate:
            reader, self._readers[reader] = self._fetched.popleft()
            self.position += 1

    @property
    def description(self) -> str:
        """Blocks and readers of the stream, for the log."""
        return self.mixture.description(self.share.world_size * len(self._readers))

    def state_dict(self) -> dict[str, Any]:
        """Return the position after whole optimizer steps: batches trained on, and the positions of all ranks' readers.

        All ranks must call this method, since one of them writes the checkpoint for all.
        """
        self._settle()
        own = [[block, [list(position) for position in sources], done] for block, sources, done in self._readers]
        return {"position": self.position, "places": _of_all_ranks(own), **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a position.

        Raises:
            ValueError: the position refers to other batches, for example of another number of ranks or workers.
        """
        check_identity(self._identity(), state)
        self.position = state["position"]
        self._readers = [
            BatchPosition(block, tuple(RecordPosition(*position) for position in sources), done)
            for block, sources, done in state["places"][self.share.rank]
        ]
        self._restart()

    def _identity(self) -> dict[str, Any]:
        mixture = self.mixture
        return {
            "sources": [source.name for source in mixture.sources],
            "shards": [len(partitions) for partitions in mixture.partitions],  # the key of older checkpoints
            "weights": None if mixture.weights is None else list(mixture.weights),
            "stream": mixture.size,
            "max_tokens": mixture.max_tokens,
            "world_size": self.share.world_size,
            "num_workers": max(1, self.num_workers),
            **vars(mixture.rule),
        }


class _Readers(IterableDataset):
    """Yields (reader, its position behind the batch, batch) in every worker, without end; an error comes last."""

    def __init__(
        self, mixture: StreamMixture, pad_id: int, readers: list[BatchPosition], position: int, share: Share
    ) -> None:
        self.mixture, self.pad_id, self.readers, self.position = mixture, pad_id, list(readers), position
        self.first, self.total = share.rank * len(readers), share.world_size * len(readers)
        _ = mixture.partitions  # opened once, before workers are started

    def __iter__(self) -> Iterator[tuple[int, BatchPosition, dict[str, Any]] | ValueError]:
        worker = get_worker_info()
        if worker is not None:
            # A forked process lacks the threads of tokenizers, and would wait for them for ever.
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        # The first worker is asked first, so it takes the reader whose turn it is.
        reader = ((0 if worker is None else worker.id) + self.position) % len(self.readers)
        start = self.readers[reader]
        try:
            for position, block in _ahead(self.mixture.blocks(self.first + reader, self.total, start)):
                for done, batch in enumerate(block.batches[position.done :], position.done + 1):
                    yield reader, position._replace(done=done), collate([block.samples[i] for i in batch], self.pad_id)
        except ValueError as error:
            # If raised here, the user would see the text of a worker's traceback, and the worker would not end.
            yield error


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield endless items, each made by a thread while the item before is in use."""
    pool = ThreadPoolExecutor(1)
    try:
        upcoming = pool.submit(next, items)
        while True:
            item = upcoming.result()
            upcoming = pool.submit(next, items)
            yield item
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _of_all_ranks(value: Any) -> list[Any]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _unchanged(item: T) -> T:
    return item
