"""Measure tokens and floating-point operations per second, time spent waiting for data, and peak memory."""

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.throughput import get_available_flops
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from beacon_lit.arch import BeaconLM, BeaconOutput
from beacon_lit.arch.flops import Load, head_flops, load, training_flops
from beacon_lit.callbacks.stopwatch import Stopwatch
from beacon_lit.evaluation.checks import check_at_least
from beacon_lit.loggers import log_metrics
from beacon_lit.strategies.reduce import over_ranks

GIB = 2**30
WAITS = {
    "data": r"train_dataloader_next$",
    "pause": r"^\[Callback\](EvaluationCallback|\w*Checkpoint).*\.on_train_batch_end$",
}


@dataclass
class _Span:
    """Counts over consecutive optimizer steps."""

    start: float
    waited: float  # seconds for the first batch
    tokens: int = 0
    labels: int = 0
    work: Load = field(default_factory=Load)

    def flops(self, lm: BeaconLM) -> int:
        """Count the model FLOPs of its passes, if there was one."""
        return training_flops(lm, self.work) + self.labels * head_flops(lm) if self.work.raw else 0


class ThroughputCallback(Callback):
    """Log the speed of a run over all ranks.

    Speed is measured over spans of optimizer steps, from the request of a span's first batch to the end of its last
    step, without validation, evaluation and checkpoints. Logged at the end of each span:

        train/tokens_per_second    unmasked tokens of all ranks per second
        train/tflops_per_device    model FLOPs per second and device, in 1e12, counted by `beacon_lit.arch.flops`
        train/mfu                  model FLOPs utilisation (PaLM, arXiv 2204.02311): model FLOPs over the device's peak,
                                   logged if the peak is known. Recomputed activations and further models such as a
                                   teacher do not count: the figure is a lower bound of the hardware's utilisation
        train/data_wait            share of the time, 0 to 1, spent waiting for batches, on the slowest rank
        train/peak_memory_gib      peak since the start, of the GPU or (on CPUs) the process; the largest of all ranks

    Args:
        every_n_steps: optimizer steps per span; the end of a span waits for the GPU and the ranks.
        peak_tflops: peak of one device, in 1e12 operations per second; None: the value in Lightning's table for the
            device and the dtype that the model computes in, if the table has one.

    Raises:
        ValueError: `every_n_steps` is below 1, or `peak_tflops` is not above 0.
    """

    def __init__(self, every_n_steps: int = 1, peak_tflops: float | None = None) -> None:
        check_at_least(1, every_n_steps=every_n_steps)
        if peak_tflops is not None and peak_tflops <= 0:
            raise ValueError(
                f"peak_tflops={peak_tflops} is not allowed; allowed: above 0, or null for the device's own"
            )
        self.every_n_steps = every_n_steps
        self.peak_tflops = peak_tflops
        self._span: _Span | None = None
        self._next_step = 0
        self._pauses = 0.0  # seconds of validation
        self._validation_start = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Register a forward hook on the model, and wrap the trainer's profiler."""
        self._watch = trainer.profiler = Stopwatch(trainer.profiler, WAITS)  # type: ignore[attr-defined]
        self._hook: RemovableHandle = cast(BeaconLM, pl_module.lm).register_forward_hook(self._count)
        self._peak = self.peak_tflops or device_tflops(trainer, pl_module)
        self._span = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the waiting time before training."""
        self._watch.seconds.clear()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hook, and restore the trainer's profiler."""
        self._hook.remove()
        trainer.profiler = self._watch.inner  # type: ignore[attr-defined]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Mapping[str, Tensor], batch_idx: int
    ) -> None:
        """Start a span at the moment when its first batch was requested, and count the batch's tokens."""
        if self._span is None:
            waited = self._watch.seconds["data"]
            self._span = _Span(perf_counter() - waited, waited)
            self._pauses = 0.0
            self._watch.seconds.clear()
            self._next_step = (trainer.global_step // self.every_n_steps + 1) * self.every_n_steps
        self._span.tokens += int(batch["attention_mask"].sum())
        self._span.labels += int((batch["labels"][:, 1:] != -100).sum())

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of validation."""
        self._validation_start = perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of validation."""
        self._pauses += perf_counter() - self._validation_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Log at the end of a span."""
        span = self._span
        if span is None or trainer.global_step < self._next_step:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)  # the work must be done before the clock stops
        seconds = perf_counter() - span.start - self._pauses - self._watch.seconds["pause"]
        waited = (span.waited + self._watch.seconds["data"]) / seconds
        tflops = span.flops(cast(BeaconLM, pl_module.lm)) / 1e12
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

    def _count(self, lm: BeaconLM, inputs: object, output: BeaconOutput) -> None:
        """Count the work of a training pass."""
        if self._span is not None and lm.training and output.rows is not None:
            self._span.work += load(output.rows, lm.beacon, lm.groups.reaches)


def device_tflops(trainer: Trainer, pl_module: LightningModule) -> float | None:
    """Return the device's peak in the dtype that the backbone computes in, in 1e12 operations per second; None if
    unknown."""
    device = pl_module.device
    lm = cast(BeaconLM, pl_module.lm)
    if device.type != "cuda":
        return None
    with trainer.precision_plugin.forward_context():
        mixed = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if mixed else lm.model.embed_tokens.weight.dtype
    flops = get_available_flops(device, dtype)
    return None if flops is None else flops / 1e12


def peak_memory(device: torch.device) -> float:
    """Return the peak of allocated GPU memory, or of this process's memory on a CPU, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
