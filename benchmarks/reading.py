"""Measure seconds, memory and cache size of reading a text."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from torch import Tensor

from beacon_lit import BeaconLM
from beacon_lit.arch.flops import forward_flops
from benchmarks.device import GIB, attempt
from benchmarks.plan import Plan
from benchmarks.shapes import measure
from benchmarks.subjects import Cache, Subject, random_ids, subjects

REPEATS, SECONDS_TO_REPEAT = 3, 2.0  # longer runs are measured once


def read(lm: BeaconLM, plan: Plan, device: torch.device) -> Iterator[dict[str, Any]]:
    """Measure seconds, memory and cache size of reading a text of each length."""
    for subject in subjects(lm):  # load or compile the kernels
        attempt(partial(subject.read, random_ids(lm, min(*plan.lengths["read"], 16 * plan.window), device)))
    for length in plan.lengths["read"]:
        ids = random_ids(lm, length, device)
        for subject in (each for each in subjects(lm) if each.fits(length)):
            measured, error = attempt(partial(_read, subject, ids, device))
            yield {"model": subject.name, "tokens": length, **(measured or {"error": error})}


def _read(subject: Subject, ids: Tensor, device: torch.device) -> dict[str, Any]:
    """Measure one text. The floor is the time of the matrix products of all layers at the device's peak."""
    held: list[Cache] = []

    def step() -> None:
        held.clear()  # otherwise the last repeat's cache would count as well
        held.append(subject.read(ids))

    (seconds, peak), runs = measure(step, device, repeats=1, warmup=0), 1
    if seconds < SECONDS_TO_REPEAT:
        (seconds, peak), runs = measure(step, device, repeats=REPEATS, warmup=0), REPEATS
    peak_flops = get_available_flops(device, subject.lm.lm_head.weight.dtype) if device.type == "cuda" else None
    floor = forward_flops(subject.lm, subject.work(ids.shape[1])) / peak_flops if peak_flops else None
    return {
        "seconds": seconds,
        "floor_seconds": floor,
        "of_floor": seconds / floor if floor else None,
        "tokens_per_second": ids.shape[1] / seconds,
        "peak_gib": peak or None,  # 0 on a CPU, which does not report memory
        "cache_gib": subject.nbytes(held[0]) / GIB,
        "runs": runs,
    }
