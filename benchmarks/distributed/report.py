"""Record time and memory of a rank's run in a callback."""

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
    """Write `rank-N.json`: seconds and tokens of every step after the first ones, and peaks of memory.

    Host memory is the process's own memory (RssAnon), without mapped files.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.seconds: list[float] = []
        self.tokens: list[int] = []
        self.found: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start to measure loading, before the model is built."""
        self.start, self.peak, self.loading = time.perf_counter(), 0.0, True
        reset_peak(trainer.strategy.root_device)
        self.first = own_gib()
        threading.Thread(target=self._watch, daemon=True).start()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record loading, once the model is on its devices."""
        self.loading = False
        self.found = {
            "s loading": time.perf_counter() - self.start,
            "host GiB loading": self.peak - self.first,
            "GiB loading": peak_gib(pl_module.device) or 0.0,
        }

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock of a step."""
        if batch_idx == WARMUP:
            reset_peak(pl_module.device)
        synchronize(pl_module.device)
        self.begin = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock of a step."""
        synchronize(pl_module.device)
        if batch_idx >= WARMUP:
            self.seconds.append(time.perf_counter() - self.begin)
            self.tokens.append(int(batch["attention_mask"].sum()))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file and end all ranks, as saving the results is slow and not measured."""
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
    """Return this process's memory without mapped files, in GiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / GIB
    return 0.0


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
