"""A callback that notes what a rank's run costs."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from benchmarks.device import GIB, peak_gib, reset_peak

WARMUP = 3  # steps


class Report(Callback):
    """Writes `rank-N.json`: seconds and tokens of every step after the first ones, and peaks of memory.

    Host memory is what the process holds for itself (RssAnon), without the files that it has mapped.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.seconds: list[float] = []
        self.tokens: list[int] = []
        self.found: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before the model is built."""
        self.start, self.peak, self.loading = time.perf_counter(), 0.0, True
        reset_peak(trainer.strategy.root_device)
        self.first = own_gib()
        threading.Thread(target=self._watch, daemon=True).start()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The model is there, and where it belongs."""
        self.loading = False
        self.found = {
            "s loading": time.perf_counter() - self.start,
            "host GiB loading": self.peak - self.first,
            "GiB loading": peak_gib(pl_module.device) or 0.0,
        }

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        if batch_idx == WARMUP:
            reset_peak(pl_module.device)
        synchronize(pl_module.device)
        self.begin = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop it."""
        synchronize(pl_module.device)
        if batch_idx >= WARMUP:
            self.seconds.append(time.perf_counter() - self.begin)
            self.tokens.append(int(batch["attention_mask"].sum()))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write, and end all ranks here: what a run saves at its end is not measured, and takes its time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        peak = peak_gib(pl_module.device) or 0.0
        report = {**self.found, "GiB": peak, "seconds": self.seconds, "tokens": self.tokens}
        (self.folder / f"rank-{trainer.global_rank}.json").write_text(json.dumps(report))
        trainer.strategy.barrier()
        os._exit(0)

    def _watch(self) -> None:
        while self.loading:
            self.peak = max(self.peak, own_gib())
            time.sleep(0.01)


def own_gib() -> float:
    """Memory of this process that is no file's, in GiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / GIB
    return 0.0


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
