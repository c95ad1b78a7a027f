"""How often ranks exchange what, in one training step."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from tests.distributed.in_turn import SCRIPT, THEN
from tests.distributed.runs import overrides

STEP = 3  # DeepSpeed has seen the order of the layers by then


class CountCollectives(Callback):
    """Writes how often each collective operation of a step is called, as `windows` and `counts` to a JSON file."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == STEP:
            self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
            self.profile.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == STEP:
            self.profile.__exit__(None, None, None)
            names = Counter(event.name for event in self.profile.events() if event.name.startswith("c10d::"))
            windows = -(-batch["input_ids"].shape[1] // pl_module.lm.beacon.window)
            if trainer.is_global_zero:
                self.file.write_text(json.dumps({"windows": windows, "counts": names}))


def counting(file: Path) -> list[str]:
    """Overrides that put it into a run."""
    return [f"+callbacks.counting={{_target_: {__name__}.CountCollectives, file: {file}}}"]


def check_gathers(launch: Callable[..., Any], strategy: str, inputs: tuple[Path, Path], folder: Path) -> None:
    """Runs of few and of many windows gather parameters equally often; `launch` starts train.py on two ranks."""
    short, long = (
        [
            *overrides(strategy, *inputs, folder / str(length)), "trainer.accumulate_grad_batches=1",
            f"data.max_length={length}", "data.min_length=33", *counting(folder / f"{length}.json"),
        ]
        for length in (64, 480)
    )  # fmt: skip
    launch(*short, THEN, *long, script=SCRIPT)
    few, many = (json.loads((folder / f"{length}.json").read_text()) for length in (64, 480))
    assert few["windows"] <= 2 and many["windows"] >= 10
    assert few["counts"] == many["counts"]
    assert any("allgather" in name for name in few["counts"])
    assert "c10d::barrier" not in few["counts"], "it would hold the host"
