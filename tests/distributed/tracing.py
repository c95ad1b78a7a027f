"""What training goes by, from batch to batch: whether anything besides it has changed that."""

import random
from pathlib import Path
from typing import Any

import numpy
import torch
from lightning import Callback, LightningModule, Trainer
from safetensors.torch import load_file

from tests.distributed.runs import losses

Row = dict[str, Any]


class Trace(Callback):
    """The state at the start of training and after each batch, when the callbacks before this one have run.

    A list of them goes to `folder`/trace-R.pt, R being the rank.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.rows: list[Row] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows.append(state(trainer, pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.rows.append({**state(trainer, pl_module), "samples": batch["index"], "dropout": drew_since_seeding()})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(self.rows, self.folder / f"trace-{trainer.global_rank}.pt")


class Disturb(Callback):
    """Does after the first batch what an evaluation must not: draws, or changes the model or the schedule."""

    def __init__(self, how: str) -> None:
        self.how = how

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx:
            return
        lm: Any = pl_module.lm
        if self.how == "ratios":
            lm.draw = lm.draw.next()
        if self.how == "mode of one layer":
            lm.model.layers[0].eval()
        if self.how == "learning rate":
            trainer.lr_scheduler_configs[0].scheduler.step()
        if self.how in GENERATORS:
            GENERATORS[self.how][0]()


# How each draws a number, and its state in a form that can be compared.
GENERATORS: dict[str, tuple[Any, Any]] = {
    "torch": (lambda: torch.rand(1), lambda: torch.get_rng_state().tolist()),
    "python": (random.random, random.getstate),
    "numpy": (
        numpy.random.rand,
        lambda: [part if isinstance(part, str) else numpy.asarray(part).tolist() for part in numpy.random.get_state()],
    ),
}


def state(trainer: Trainer, pl_module: LightningModule) -> Row:
    """The state of all that training goes by, by name, in values that can be compared."""
    lm: Any = pl_module.lm
    return {
        **{name: state() for name, (_, state) in GENERATORS.items()},
        "ratios": (lm.draw.seed, lm.draw.rank, lm.draw.step),
        "modes": [module.training for module in pl_module.modules()],
        "gradients": [torch.is_grad_enabled(), *(parameter.requires_grad for parameter in lm.parameters())],
        "learning rate": [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups],
        "step": trainer.global_step,
    }


def drew_since_seeding() -> bool:
    """Whether PyTorch has drawn anything since the seed was set."""
    return not torch.equal(torch.Generator().manual_seed(torch.initial_seed()).get_state(), torch.get_rng_state())


def traces(folder: Path) -> list[list[Row]]:
    """The rows of every rank of a run."""
    return [torch.load(file) for file in sorted(folder.glob("trace-*.pt"))]


def differences(one: Path, other: Path) -> set[str]:
    """What differs between two runs, to the bit: names of `state`, "samples", "dropout", "losses", "weights"."""
    rows, others = traces(one), traces(other)
    assert rows and [*map(len, rows)] == [*map(len, others)]
    pairs = [pair for of_rank in zip(rows, others, strict=True) for pair in zip(*of_rank, strict=True)]
    found = {name for own, theirs in pairs for name in own if own[name] != theirs[name]}
    if losses(one) != losses(other):
        found.add("losses")
    weights, theirs = trained(one), trained(other)
    if weights.keys() != theirs.keys() or not all(torch.equal(weights[name], theirs[name]) for name in weights):
        found.add("weights")
    return found


def trained(folder: Path) -> dict[str, torch.Tensor]:
    """All that was trained, an adapter, too."""
    files = sorted(folder.glob("beacons/**/*.safetensors"))
    assert files
    return {f"{file.name}/{name}": value for file in files for name, value in load_file(file).items()}


def tracing(folder: Path) -> list[str]:
    """Overrides that put it into a run."""
    return [f"+callbacks.tracing={{_target_: {__name__}.Trace, folder: {folder}}}"]


def disturbing(how: str) -> list[str]:
    """Overrides that put it into a run, before tracing."""
    return [f"+callbacks.disturbing={{_target_: {__name__}.Disturb, how: {how}}}"]
