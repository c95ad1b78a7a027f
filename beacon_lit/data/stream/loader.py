"""Serves the batches of a stream, and continues where a checkpoint left off."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from beacon_lit.data.collate import collate
from beacon_lit.data.loader import Share, check_identity, with_step_weight
from beacon_lit.data.stream.blocks import Mixture, Place
from beacon_lit.data.stream.reader import Position

Item = TypeVar("Item")


class StreamLoader:
    """Iterates over a rank's batches, without end.

    Each worker reads a share of its own, and the batches come from the workers in turn: other numbers of ranks or
    workers give other batches. A reader holds two blocks, the one that is trained on and the next.

    mixture: where batches come from
    pad_id: token id of padding
    num_workers: processes that read and tokenise; 0 = a thread beside training does
    share: this rank's
    trained: tells how many batches were trained on; default: as many as were handed out. See `TrainLoader`
    """

    def __init__(
        self,
        mixture: Mixture,
        pad_id: int,
        num_workers: int = 0,
        share: Share = Share(),  # noqa: B008  # frozen
        trained: Callable[[], int] | None = None,
    ) -> None:
        self.mixture, self.pad_id, self.num_workers, self.share = mixture, pad_id, num_workers, share
        self.position = 0  # batches trained on (on this rank) in whole optimizer steps, as far as is known
        self._places = [mixture.start] * max(1, num_workers)  # of each reader, behind those
        self._fetched: deque[tuple[int, Place]] = deque()  # and behind every batch since
        self._given = 0  # batches handed out by this iteration
        self._trained, self._begin = trained, (0, 0)  # `trained()` and `position` when it began

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._settle()
        self._restart()
        for batch in with_step_weight(self._fetch(), self.share.accumulate):
            self._settle()
            self._given += 1
            yield batch

    def _fetch(self) -> Iterator[dict[str, Any]]:
        readers = _Readers(self.mixture, self.pad_id, self._places, self.position, self.share)
        for item in DataLoader(
            readers,
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own, so that loading draws nothing from the global one
        ):
            if isinstance(item, ValueError):
                raise item
            reader, place, batch = item
            self._fetched.append((reader, place))
            yield batch

    def _restart(self) -> None:
        self._fetched.clear()  # ahead, and never trained on: these come again
        self._given, self._begin = 0, (0 if self._trained is None else self._trained(), self.position)

    def _settle(self) -> None:
        """Take note of the optimizer steps that were trained on."""
        before, position = self._begin
        trained = self._given if self._trained is None else self._trained() - before
        while self._fetched and self.position < position + trained // self.share.accumulate * self.share.accumulate:
            reader, self._places[reader] = self._fetched.popleft()
            self.position += 1

    @property
    def description(self) -> str:
        """For the log."""
        return self.mixture.description(self.share.world_size * len(self._places))

    def state_dict(self) -> dict[str, Any]:
        """The position after whole optimizer steps: batches trained on, and the place of every reader of all ranks.

        All ranks have to call it, since one of them writes the checkpoint for all.
        """
        self._settle()
        own = [[block, [list(position) for position in sources], done] for block, sources, done in self._places]
        return {"position": self.position, "places": _of_all_ranks(own), **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a position.

        Raises ValueError: the batches are not those that the position refers to, other numbers of ranks or workers
        included.
        """
        check_identity(self._identity(), state)
        self.position = state["position"]
        self._places = [
            Place(block, tuple(Position(*position) for position in sources), done)
            for block, sources, done in state["places"][self.share.rank]
        ]
        self._restart()

    def _identity(self) -> dict[str, Any]:
        mixture = self.mixture
        return {
            "sources": [source.name for source in mixture.sources],
            "shards": [len(shards) for shards in mixture.shards],
            "weights": None if mixture.weights is None else list(mixture.weights),
            "stream": mixture.size,
            "max_tokens": mixture.max_tokens,
            "world_size": self.share.world_size,
            "num_workers": max(1, self.num_workers),
            **vars(mixture.rule),
        }


class _Readers(IterableDataset):
    """In every worker: (reader, place behind the batch, batch), without end, or up to an error, which comes last."""

    def __init__(self, mixture: Mixture, pad_id: int, places: list[Place], position: int, share: Share) -> None:
        self.mixture, self.pad_id, self.places, self.position = mixture, pad_id, list(places), position
        self.first, self.total = share.rank * len(places), share.world_size * len(places)
        _ = mixture.shards  # opened once, before workers are started

    def __iter__(self) -> Iterator[tuple[int, Place, dict[str, Any]] | ValueError]:
        worker = get_worker_info()
        if worker is not None:
            # The threads of tokenizers do not live on in a forked process, which would wait for them for ever.
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        # The first worker is asked first: it has to be the reader whose turn it is.
        reader = ((0 if worker is None else worker.id) + self.position) % len(self.places)
        start = self.places[reader]
        try:
            for place, block in _ahead(self.mixture.blocks(self.first + reader, self.total, start)):
                for done, batch in enumerate(block.batches[place.done :], place.done + 1):
                    yield reader, place._replace(done=done), collate([block.samples[i] for i in batch], self.pad_id)
        except ValueError as error:
            # Raised here, it would reach the user as the text of a worker's traceback, and the worker would linger.
            yield error


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items without end, each made while the one before is in use."""
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


def _unchanged(item: Item) -> Item:
    return item
