"""Serves the batches of an order to the ranks, and continues where a checkpoint left off."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from beacon_lit.data.collate import collate
from beacon_lit.data.order import BatchOrder
from beacon_lit.data.packing import Batch
from beacon_lit.data.sample import Sample, check_int


@dataclass(frozen=True)
class Share:
    """What this process trains on of all batches: every `world_size`-th.

    rank, world_size: its number among the processes, and how many they are
    accumulate: batches of one optimizer step on each rank
    """

    rank: int = 0
    world_size: int = 1
    accumulate: int = 1

    def position(self, batches: int, then: Mapping[str, int]) -> int:
        """A number of batches trained on by each rank of a share `then` (`asdict`), in batches of this one.

        Whole optimizer steps count. A step of this share that was begun is trained on as a whole.
        """
        steps = batches // then["accumulate"]
        all_batches = steps * then["accumulate"] * then["world_size"]
        return all_batches // (self.world_size * self.accumulate) * self.accumulate


@dataclass(eq=False)
class BatchLoader:
    """Iterates over this rank's batches of an order's first epoch, each time from its start: for validation.

    Not a torch DataLoader itself, so that Lightning leaves the sharding over ranks to the order. Every rank has equally
    many batches: the last may be one without labels.

    samples: what the order's indices mean
    pad_id: token id of padding
    num_workers: processes that make batches ahead of time; 0 = none. The batches do not depend on it
    share: this rank's
    """

    samples: Sequence[Sample]
    order: BatchOrder
    pad_id: int
    num_workers: int = 0
    share: Share = Share()

    def __len__(self) -> int:
        return -(-len(self.order) // self.share.world_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = [*islice(self.order.batches(), len(self.order)), *[[]] * (self.share.world_size - 1)]
        yield from self._load(batches[self.share.rank :: self.share.world_size][: len(self)])

    def _load(self, batches: Sequence[Batch]) -> Iterator[dict[str, Any]]:
        yield from DataLoader(
            self.samples,  # type: ignore[arg-type]  # a sequence is all it needs
            batch_sampler=batches,
            collate_fn=partial(collate, pad_id=self.pad_id),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own, so that loading draws nothing from the global one
        )


@dataclass(eq=False)
class TrainLoader(BatchLoader):
    """Iterates over the rest of the current epoch; the next iteration is the next epoch.

    An epoch is a whole number of optimizer steps. What of the order is left over when it ends begins the next one.

    trained: tells how many batches were trained on; default `position`. It differs where a checkpoint is made while a
        batch is in the works, and only the training loop can tell
    position: batches handed out since the start of training (on this rank)
    """

    trained: Callable[[], int] | None = None
    position: int = field(default=0, init=False)

    def __len__(self) -> int:
        accumulate = self.share.accumulate
        return max(1, len(self.order) // (self.share.world_size * accumulate)) * accumulate

    def __iter__(self) -> Iterator[dict[str, Any]]:
        share, rest = self.share, len(self) - self.position % len(self)
        own = islice(self.order.batches(self.position * share.world_size), share.rank, None, share.world_size)
        for batch in with_step_weight(self._load(list(islice(own, rest))), share.accumulate):
            self.position += 1  # here, not in a worker: those run ahead
            yield batch

    @property
    def description(self) -> str:
        """For the log."""
        return (
            f"{len(self):,} batches of at most {self.order.max_tokens:,} tokens per epoch and rank "
            f"(ranks: {self.share.world_size}, batches to an optimizer step: {self.share.accumulate})"
        )

    def state_dict(self) -> dict[str, Any]:
        """The position, as the number of batches trained on, and what it refers to."""
        trained = self.position if self.trained is None else self.trained()
        share = {name: value for name, value in asdict(self.share).items() if name != "rank"}
        return {"position": trained, **share, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a position, of any number of ranks. An optimizer step that was begun is begun again.

        Raises:
            ValueError: the batches are not those that the position refers to.
        """
        check_identity(self._identity(), state)
        check_int("position", state["position"], 0)
        self.position = self.share.position(state["position"], state)

    def _identity(self) -> dict[str, Any]:
        order = self.order
        return {
            "samples": order.mixture.total,
            "tokens": int(sum(lengths.sum() for lengths in order.lengths)),
            "max_tokens": order.max_tokens,
            "seed": order.seed,
            "weights": None if order.weights is None else list(order.weights),
        }


def with_step_weight(batches: Iterator[dict[str, Any]], accumulate: int) -> Iterator[dict[str, Any]]:
    """Batches with "step_weight": the sum of all weights in the loss of the `accumulate` batches they are summed with.

    Looks ahead to the last batch of a step before it gives the first. Scalar float64.
    """
    while group := list(islice(batches, accumulate)):
        total = torch.stack([batch["weights"][:, 1:].sum(dtype=torch.float64) for batch in group]).sum()
        yield from ({**batch, "step_weight": total} for batch in group)


def check_identity(identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Raise a ValueError unless a position is in the batches that `identity` tells apart from others."""
    for name, value in identity.items():
        if state.get(name) != value:
            raise ValueError(f"{name}={value} differs from the run that is resumed, which had {name}={state.get(name)}")
