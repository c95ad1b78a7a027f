"""Serves the batches of an order, and continues where a checkpoint left off."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from beacon_lit.data.collate import collate
from beacon_lit.data.order import BatchOrder
from beacon_lit.data.sample import Sample, check_int


class BatchLoader:
    """Iterates over the batches of an order's first epoch, each time from its start: for validation.

    Not a torch DataLoader itself, so that Lightning leaves the sharding over ranks to the order.

    samples: what the order's indices mean
    pad_id: token id of padding
    num_workers: processes that make batches ahead of time; 0 = none. The batches do not depend on it
    """

    def __init__(self, samples: Sequence[Sample], order: BatchOrder, pad_id: int, num_workers: int = 0) -> None:
        self.samples = samples
        self.order = order
        self.pad_id = pad_id
        self.num_workers = num_workers

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._batches(epoch=0, first=0)

    def _batches(self, epoch: int, first: int) -> Iterator[dict[str, Any]]:
        yield from DataLoader(
            self.samples,  # type: ignore[arg-type]  # a sequence is all it needs
            batch_sampler=self.order.epoch(epoch)[first:],
            collate_fn=partial(collate, pad_id=self.pad_id),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own, so that loading draws nothing from the global one
        )


class TrainLoader(BatchLoader):
    """Iterates over the rest of the current epoch; the next iteration is the next epoch.

    position: batches handed out since the start of training (on this rank)
    trained: tells how many batches were trained on; default `position`. It differs where a checkpoint is made while a
        batch is in the works, and only the training loop can tell
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        order: BatchOrder,
        pad_id: int,
        num_workers: int = 0,
        trained: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(samples, order, pad_id, num_workers)
        self.position = 0
        self._trained = trained

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._batches(*divmod(self.position, len(self))):
            self.position += 1  # here, not in a worker: those run ahead
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The position, as the number of batches trained on, and what it refers to."""
        return {"position": self.position if self._trained is None else self._trained(), **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a position. Raises ValueError if the batches are not those that the position refers to."""
        for name, value in self._identity().items():
            if state[name] != value:
                raise ValueError(f"{name}={value} differs from the run that is resumed, which had {name}={state[name]}")
        check_int("position", state["position"], 0)
        self.position = state["position"]

    def _identity(self) -> dict[str, Any]:
        order = self.order
        return {
            "samples": order.mixture.total,
            "tokens": int(sum(lengths.sum() for lengths in order.lengths)),
            "max_tokens": order.max_tokens,
            "seed": order.seed,
            "world_size": order.world_size,
            "weights": None if order.weights is None else list(order.weights),
        }
