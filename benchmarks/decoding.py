"""Measure time and memory of each step of a generation, for one row and for many."""

import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from beacon_lit import BeaconLM
from beacon_lit.arch.nn.packed import stored
from benchmarks.device import GIB, OUT_OF_MEMORY, attempt, copy_rate, peak_gib, reset_peak
from benchmarks.plan import Plan
from benchmarks.shapes import measure
from benchmarks.subjects import Beacons, Cache, Subject, random_ids, subjects

Row = dict[str, Any]

DECODE_AHEAD, BATCH_AHEAD = 50, 10  # steps before a window's border, and as many after it


def decode(lm: BeaconLM, plan: Plan, device: torch.device) -> Iterator[Row]:
    """Measure the milliseconds of each step of one row, across a window's border, and of reading the weights alone."""
    rate = copy_rate(device)
    for length in plan.lengths["decode"]:
        ahead = min(DECODE_AHEAD, plan.window // 2)
        ids = text_before(lm, length, ahead, device)
        for subject in subjects(lm):
            cache, error = attempt(partial(_after, subject, ids))
            measured = None
            if cache is not None:
                measured, error = attempt(partial(_steps, subject, ids, cache, ahead, plan.window, rate))
            yield {"model": subject.name, "tokens": length, "batch": 1, **(measured or {"error": error})}
            if cache is not None and type(subject) is Beacons:
                measured, error = attempt(partial(_one_window, subject, ids, cache, plan.window))
                yield {"model": "one window read", "tokens": length, **(measured or {"error": error})}
            del cache
    if plan.lengths["decode"]:
        measured, error = attempt(partial(_weights_alone, lm, rate))
        yield {"model": "weights alone", **(measured or {"error": error})}


def _one_window(subject: Beacons, ids: Tensor, cache: Cache, window: int) -> Row:
    """Measure one further window after the text, read as one of eight: the yardstick for the step at a border."""
    seconds, _ = measure(lambda: subject.read_on(ids[:, : 8 * window], cache), ids.device, repeats=3, warmup=1)
    return {"median_ms": seconds / 8 * 1000}


def _weights_alone(lm: BeaconLM, rate: float) -> Row:
    """Compute the time to read the backbone's weights at the device's copy rate."""
    weights = weight_bytes(lm)
    return {"median_ms": weights / rate * 1000, "weights_gib": weights / GIB, "copied_gib_per_second": rate / GIB}


def _after(subject: Subject, ids: Tensor) -> Cache:
    """Load the kernels of reading and decoding, and return the cache of all ids but the last."""
    start = ids[:, : max(2, ids.shape[1] // 64)]
    subject.generate(start, subject.read(start[:, :-1]), 4)
    return subject.read(ids[:, :-1])


def batch(lm: BeaconLM, plan: Plan, device: torch.device) -> Iterator[Row]:
    """Measure tokens per second of many rows, and how many rows fit; every batch tried is a row of the table."""
    rate = copy_rate(device)
    for length in plan.lengths["batch"]:
        ahead = min(BATCH_AHEAD, plan.window // 2)
        ids = text_before(lm, length, ahead, device)
        for subject in subjects(lm):
            head = {"model": subject.name, "tokens": length}
            one, error = attempt(partial(_one_row, subject, ids))
            if one is None:
                yield {**head, "batch": 1, "error": error}
                continue
            rows: int | None = plan.rows
            fitting, failing = 0, None
            while rows:
                work = partial(_rows_and_steps, subject, ids.expand(rows, -1), one, ahead, plan.window, rate)
                measured, error = attempt(work)
                yield {**head, "batch": rows, **(measured or {"error": error})}
                if error not in (None, OUT_OF_MEMORY):
                    break
                fitting, failing = (fitting, rows) if error else (rows, failing)
                rows = next_batch(fitting, failing, plan.most)


def next_batch(fitting: int, failing: int | None, most: int) -> int | None:
    """Return the next batch to try: double first, then bisect; None once the limit is known to a sixteenth."""
    if failing is None:
        return min(2 * fitting, most) if fitting < most else None
    gap = failing - fitting
    return fitting + gap // 2 if gap > max(1, fitting // 16) else None


def _one_row(subject: Subject, ids: Tensor) -> Cache:
    """Make the cache of all ids but the last, on the host, to leave the device's memory to the rows."""
    return subject.for_rows(_after(subject, ids), 1, torch.device("cpu"))


def _rows_and_steps(subject: Subject, ids: Tensor, one: Cache, ahead: int, window: int, rate: float) -> Row:
    return _steps(subject, ids, subject.for_rows(one, len(ids), ids.device), ahead, window, rate)


def _steps(subject: Subject, ids: Tensor, cache: Cache, ahead: int, window: int, rate: float) -> Row:
    """Decode `ahead` steps up to a border and as many after it.

    The floor of a step is the time to read the weights and the cache once, at the device's copy rate.
    """
    kept = subject.nbytes(cache, len(ids))
    floor = (weight_bytes(subject.lm) + kept) / rate * 1000
    reset_peak(ids.device)
    seconds = subject.generate(ids, cache, 2 * ahead)
    memory = {"peak_gib": peak_gib(ids.device), "cache_gib": kept / GIB}
    timed = timings(seconds, len(ids), ahead if subject.has_borders else None, window)
    return {**timed, "floor_ms": floor, "of_floor": timed["median_ms"] / floor, **memory}


def timings(seconds: Sequence[float], rows: int, border: int | None, window: int) -> Row:
    """Summarise the steps of a generation.

    Args:
        seconds: seconds of each step; the first step includes set-up.
        rows: rows of the batch.
        border: index of the step at which a window closes, or None; a session may close the window one step earlier or
            later, so the slowest of the three steps counts.
        window: steps from one border to the next.

    Returns:
        Milliseconds of the first step, of the median and worst of the other steps (with the worst step's number) and of
        the border; and tokens per second, where the border counts with its share.
    """
    median, worst = statistics.median(seconds[1:]), max(seconds[1:])
    at_border = None if border is None else max(seconds[max(1, border - 1) : border + 2])
    sustained = median if at_border is None else median + (at_border - median) / window
    return {
        "first_ms": seconds[0] * 1000,
        "median_ms": median * 1000,
        "border_ms": None if at_border is None else at_border * 1000,
        "worst_ms": worst * 1000,
        "worst_step": seconds.index(worst, 1) + 1,
        "tokens_per_second": rows / sustained,
        "steps_ms": [round(step * 1000, 3) for step in seconds],
    }


def text_before(lm: BeaconLM, border: int, ahead: int, device: torch.device) -> Tensor:
    """Make (1, L) ids of a text; all but the last are read first, and the first step reads the last.

    A window stays open until a token beyond it is read, so the step with index `ahead` closes the window that ends at
    `border`.
    """
    return random_ids(lm, border - ahead + 1, device)


def weight_bytes(lm: BeaconLM) -> int:
    """Count the bytes that a step must read: the backbone's weights as stored, without an untied input embedding."""
    beacons = {id(parameter) for parameter in lm.beacon_parameters()}
    modules = (lm.model.layers, lm.model.norm, lm.lm_head)
    parameters = [parameter for module in modules for parameter in module.parameters()]
    read = [parameter for parameter in parameters if id(parameter) not in beacons]
    return sum(tensor.nbytes for parameter in read for tensor in stored(parameter))
