"""What the device has: memory, and what to do when it runs out; the rate at which it copies."""

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
    """What `work` returns and None; or None and the error, `OUT_OF_MEMORY` or, printed in full, any other.

    One failure must not cost the measurements after it. Memory that nothing holds is given back first.
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
    """Give memory that nothing holds any longer back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reset_peak(device: torch.device) -> None:
    """Let `peak_gib` begin anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """Most memory held since `reset_peak`, weights included; None on a CPU, which does not tell."""
    return torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None


def copy_rate(device: torch.device) -> float:
    """Bytes per second, read and written ones, of a copy far larger than any cache of the device."""
    source = torch.zeros(GIB if device.type == "cuda" else GIB // 64, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds, _ = measure(lambda: target.copy_(source), device, repeats=9, warmup=3)
    return 2 * source.nbytes / seconds
