"""Tokens and floating-point operations per second, waiting for data, and peak memory."""

import resource
import sys
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.throughput import get_available_flops
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from beacon_lit.arch.flops import head_flops, pass_flops
from beacon_lit.callbacks.stopwatch import Stopwatch
from beacon_lit.loggers import log_metrics
from beacon_lit.strategies.reduce import over_ranks

GIB = 2**30
WAITS = {
    "data": r"train_dataloader_next$",
    "pause": r"^\[Callback\](EvaluationCallback|\w*Checkpoint).*\.on_train_batch_end$",
}


@dataclass
class _Span:
    """What some optimizer steps take. Labels are counted on the device, so that nothing waits for them."""

    start: float
    waited: float  # seconds for the first batch
    tokens: int = 0
    flops: int = 0  # but for the language head
    labels: int | Tensor = 0
    label_flops: int = 0


class ThroughputCallback(Callback):
    """Log how fast a run is, all ranks together, and show the main figures on the progress bar.

    Measured over spans of optimizer steps: from when a span's first batch is asked for to the end of its last step,
    without validation, evaluation and checkpoints. Logged at the end of each span:

        train/tokens_per_second    of all ranks; tokens are those that the attention mask lets in
        train/tflops_per_device    model FLOPs (1e12 a second), counted as `beacon_lit.arch.flops` says
        train/mfu                  model FLOPs utilisation (PaLM, arXiv 2204.02311): the same over the device's peak;
                                   only where that is known. What is computed a second time to save memory, and what
                                   else a step may run (a teacher), does not count: it is a lower bound of the
                                   hardware's utilisation
        train/data_wait            share of the time, 0 to 1, that was spent waiting for batches; the slowest rank's
        train/peak_memory_gib      since the start: the GPU's, or on a CPU the process's; the largest rank's

    Args:
        every_n_steps: optimizer steps per span, which end at multiples of it; each end waits for the GPU and the ranks.
        peak_tflops: what a device can do at most, in 1e12 operations a second; None = Lightning's table for the
            device and the dtype that the model computes in, where it has them.

    Raises:
        ValueError: `every_n_steps` below 1, `peak_tflops` not above 0.
    """

    def __init__(self, every_n_steps: int = 1, peak_tflops: float | None = None) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps: got {every_n_steps}; must be at least 1")
        if peak_tflops is not None and peak_tflops <= 0:
            raise ValueError(f"peak_tflops: got {peak_tflops}; must be above 0, or null for the device's own")
        self.every_n_steps = every_n_steps
        self.peak_tflops = peak_tflops
        self._span: _Span | None = None
        self._next_step = 0
        self._pauses = 0.0  # validation
        self._since = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to the model's passes and to the trainer's clock."""
        self._watch = trainer.profiler = Stopwatch(trainer.profiler, WAITS)  # type: ignore[attr-defined]
        lm: Any = pl_module.lm
        self._hook: RemovableHandle = lm.register_forward_hook(self._count)
        self._peak = self.peak_tflops or device_tflops(trainer, pl_module)
        self._span = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What was waited for before is no training."""
        self._watch.seconds.clear()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave both as they were."""
        self._hook.remove()
        trainer.profiler = self._watch.inner  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock of a span, at the moment when its first batch was asked for."""
        if self._span is None:
            waited = self._watch.seconds["data"]
            self._span = _Span(perf_counter() - waited, waited)
            self._pauses = 0.0
            self._watch.seconds.clear()
            self._next_step = (trainer.global_step // self.every_n_steps + 1) * self.every_n_steps
        self._span.tokens += int(batch["attention_mask"].sum())
        self._span.labels = self._span.labels + (batch["labels"][:, 1:] != -100).sum()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training stands still."""
        self._since = perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training goes on."""
        self._pauses += perf_counter() - self._since

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """At the end of a span, log."""
        span = self._span
        if span is None or trainer.global_step < self._next_step:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)  # so that the clock stops when the work is done
        seconds = perf_counter() - span.start - self._pauses - self._watch.seconds["pause"]
        waited = (span.waited + self._watch.seconds["data"]) / seconds
        tflops = (span.flops + int(span.labels) * span.label_flops) / 1e12
        self._span = None
        self._watch.seconds.clear()
        rates = torch.tensor([span.tokens / seconds, tflops / seconds], device=pl_module.device)
        most = torch.tensor([waited, peak_memory(pl_module.device)], device=pl_module.device)
        tokens, tflops = over_ranks(rates).tolist()
        waited, memory = over_ranks(most, "max").tolist()
        tflops /= trainer.world_size
        mfu = {} if self._peak is None else {"mfu": tflops / self._peak}
        values = {"tokens_per_second": tokens, "tflops_per_device": tflops, **mfu, "data_wait": waited}
        log_metrics(trainer, {f"train/{name}": value for name, value in {**values, "peak_memory_gib": memory}.items()})
        pl_module.log_dict({"ktok/s": tokens / 1000, **mfu, "GiB": memory}, prog_bar=True, logger=False)

    def _count(self, lm: Any, arguments: Any, output: Any) -> None:
        """The operations of a pass of training."""
        if self._span is not None and lm.training and output.rows is not None:
            self._span.flops += pass_flops(lm, output.rows)
            self._span.label_flops = head_flops(lm)


def device_tflops(trainer: Trainer, pl_module: LightningModule) -> float | None:
    """The most that the device does in the dtype that the backbone computes in, 1e12 operations a second, if known."""
    device = pl_module.device
    lm: Any = pl_module.lm
    if device.type != "cuda":
        return None
    with trainer.precision_plugin.forward_context():
        mixed = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if mixed else lm.model.embed_tokens.weight.dtype
    flops = get_available_flops(device, dtype)
    return None if flops is None else flops / 1e12


def peak_memory(device: torch.device) -> float:
    """GiB: the most that was allocated on a GPU, or that this process held in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
