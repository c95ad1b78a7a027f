"""How often ranks exchange what, in one training step."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

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
