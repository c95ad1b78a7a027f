"""The real module around a tiny random model, on batches of random tokens."""

from functools import partial
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from beacon_lit import BeaconConfig
from beacon_lit.module import BeaconModule
from tests.arch.tiny import tiny, tokens
from tests.evaluation.fakes import byte_tokenizer

BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=1, overlap=2, placement="interleave")


def beacon_module(beacon: BeaconConfig = BEACON, lr: float = 1e-3, **settings: Any) -> BeaconModule:
    module = BeaconModule(lambda shard: module.lm, byte_tokenizer(), partial(torch.optim.AdamW, lr=lr), **settings)
    module.lm = tiny("llama", beacon)
    return module


def batch(number: int, lengths: tuple[int, ...] = (37, 20, 6)) -> dict[str, Any]:
    """Rows of these lengths, padded; every fifth token is not labelled, every third counts double."""
    width = max(lengths)
    ids = tokens(len(lengths), width, seed=number)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    labels = ids.masked_fill((mask == 0) | (torch.arange(width) % 5 == 4), -100)
    weights = torch.where(labels == -100, 0.0, torch.where(torch.arange(width) % 3 == 0, 2.0, 1.0))
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "weights": weights,
        "index": [f"{number}-{row}" for row in range(len(lengths))],
    }


class Batches(lightning.LightningDataModule):
    """The given batches, in order; ranks take turns. Each knows what the batches of its step weigh together."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        mine = self.batches[self.trainer.global_rank :: self.trainer.world_size]
        count = self.trainer.accumulate_grad_batches
        steps = [mine[start : start + count] for start in range(0, len(mine), count)]
        totals = [sum(one["weights"][:, 1:].sum() for one in step) for step in steps]
        mine = [{**one, "step_weight": total} for step, total in zip(steps, totals, strict=True) for one in step]
        return DataLoader(mine, batch_size=None)  # type: ignore[arg-type]
