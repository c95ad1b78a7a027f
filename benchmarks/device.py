"""Measure a device's memory and copy rate, and survive running out of memory."""

import gc
import traceback
from collections.abc import Callable
from typing import TypeVar

import torch

from benchmarks.shapes import measure

GIB = 2**30
OUT_OF_MEMORY = "out of memory"

T = TypeVar("T")


def attempt(work: Callable[[], T]) -> tuple[T | None, str | None]:
    """Run `work` and return its result and None, or None and the error: `OUT_OF_MEMORY`, or another, printed in full.

    One failure must not prevent later measurements. Unused memory is released first.
    """
    free()
    try:
        return work(), None
    except Exception as error:
        if is_out_of_memory(error):
            return None, OUT_OF_MEMORY
        traceback.print_exc()
        return None, f"{type(error).__name__}: {error}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device had too little memory: libraries and graph captures say so in RuntimeErrors of their own."""
    text = str(error).lower()
    said = "out of memory" in text or "alloc_failed" in text
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and said)


def free() -> None:
    """Release unused memory to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reset_peak(device: torch.device) -> None:
    """Reset the peak that `peak_gib` returns."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """Return the peak memory since `reset_peak`, including weights; None on a CPU, which does not report it."""
    return torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None


def copy_rate(device: torch.device) -> float:
    """Measure the bytes read and written per second by a copy far larger than the device's caches."""
    source = torch.zeros(GIB if device.type == "cuda" else GIB // 64, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds, _ = measure(lambda: target.copy_(source), device, repeats=9, warmup=3)
    return 2 * source.nbytes / seconds
