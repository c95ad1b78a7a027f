"""Loaders that serve the batches of an order to the ranks, and continue where a checkpoint left off."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from beacon_lit.data.checks import check_int
from beacon_lit.data.collate import collate
from beacon_lit.data.order import BatchOrder
from beacon_lit.data.packing import Batch
from beacon_lit.data.sample import Sample
from beacon_lit.data.share import Share


@dataclass(eq=False)
class BatchLoader:
    """Iterates over this rank's batches of an order's first epoch, each time from the start: for validation.

    Not a torch DataLoader, so that Lightning leaves the sharding over ranks to the order. All ranks have the same
    number of batches; the last may be one without loss.

    Args:
        samples: what the order's indices refer to.
        order: the batches of all ranks.
        pad_id: token id of padding.
        num_workers: processes that make batches ahead of time; 0 = none. The batches do not depend on the number.
        share: this rank's share of the batches.
    """

    samples: Sequence[Sample]
    order: BatchOrder
    pad_id: int
    num_workers: int = 0
    share: Share = field(default_factory=Share)

    def __len__(self) -> int:
        return -(-len(self.order) // self.share.world_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = [*islice(self.order.batches(), len(self.order)), *[[]] * (self.share.world_size - 1)]
        yield from self._load(batches[self.share.rank :: self.share.world_size][: len(self)])

    def _load(self, batches: Sequence[Batch]) -> Iterator[dict[str, Any]]:
        collate_fn = partial(collate, pad_id=self.pad_id)
        yield from torch_loader(self.samples, self.num_workers, batch_sampler=batches, collate_fn=collate_fn)


@dataclass(eq=False)
class TrainLoader(BatchLoader):
    """Iterates over the rest of the current epoch; the next iteration is the next epoch.

    An epoch is a whole number of optimizer steps. Batches that are left over at its end begin the next epoch.

    Args:
        trained: returns how many batches were trained on; default: `position`. The two differ where a checkpoint is
            made between the batches of a step, and only the training loop knows.

    Attributes:
        position: batches handed out on this rank since the start of training.
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
            self.position += 1  # here and not in a worker, since workers run ahead
            yield batch

    @property
    def description(self) -> str:
        """Number and size of the batches, for the log."""
        return (
            f"{len(self):,} batches of at most {self.order.max_tokens:,} tokens per epoch and rank "
            f"(ranks: {self.share.world_size}, batches to an optimizer step: {self.share.accumulate})"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the position, in batches trained on, and the order that the position refers to."""
        trained = self.position if self.trained is None else self.trained()
        share = {name: value for name, value in asdict(self.share).items() if name != "rank"}
        return {"position": trained, **share, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a position of any number of ranks; an optimizer step that was begun is begun again.

        Raises:
            ValueError: the position refers to other batches.
        """
        check_identity(self._identity(), state)
        check_int("position", state["position"], 0)
        self.position = self.share.position(state["position"], state)

    def _identity(self) -> dict[str, Any]:
        order = self.order
        return {
            "seed": order.seed,  # first, since samples depend on the seed
            "max_tokens": order.max_tokens,
            "samples": order.sample_order.total,
            "tokens": int(sum(lengths.sum() for lengths in order.lengths)),
            "weights": None if order.weights is None else list(order.weights),
        }


def torch_loader(dataset: Any, num_workers: int, **options: Any) -> DataLoader:
    """Make a torch DataLoader that draws nothing from the global random generator."""
    pinned = torch.cuda.is_available()
    return DataLoader(dataset, num_workers=num_workers, pin_memory=pinned, generator=torch.Generator(), **options)


def with_step_weight(batches: Iterator[dict[str, Any]], accumulate: int) -> Iterator[dict[str, Any]]:
    """Add "step_weight" to batches: the sum of all loss weights in the optimizer step of a batch, a float64 scalar.

    All `accumulate` batches of a step are made before the first is yielded.
    """
    while group := list(islice(batches, accumulate)):
        total = torch.stack([batch["weights"][:, 1:].sum(dtype=torch.float64) for batch in group]).sum()
        yield from ({**batch, "step_weight": total} for batch in group)


def check_identity(identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Raise a ValueError unless the state of a resumed run refers to the batches that `identity` describes."""
    for name, value in identity.items():
        if state.get(name) != value:
            raise ValueError(
                f"{name}={value} differs from the run that is resumed, which had {name}={state.get(name)}; allowed: "
                "the same data and settings of data, or a new run, with init_from= in place of resume="
            )
