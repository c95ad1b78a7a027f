"""Attention of one query per row, in Triton: to parts of the slots at the same time, then merged (FlashDecoding).

Two kernels read keys and values once. Slots that no query sees are not read.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 64  # slots that a program reads at once
PROGRAMS = 256  # about as many work at the same time: two for each multiprocessor of a large GPU


@torch.library.custom_op("beacon_lit::flash_decoding", mutates_args=())
def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, cap: float | None = None) -> Tensor:
    """Attend with one query per row; see `inference.static.attend`, for half precision on a GPU.

    An operator of torch's, so that compiled code serves all numbers of rows and slots: how slots are cut into parts
    depends on both.

    Args:
        q: (B, N, H).
        k, v: (B, K, S, H), contiguous, N a multiple of K.
        bias: (B, 1, S) float32, contiguous: 0 for slots that a row sees, -inf for others.
        scale: scale of the scores.
        cap: soft cap of the scaled scores; None: there is none.

    Returns:
        (B, N, H) in the dtype of q.
    """
    batch, heads, slots, size = k.shape
    group = q.shape[1] // heads
    length = triton.cdiv(triton.cdiv(slots, BLOCK), max(PROGRAMS // (batch * heads), 1)) * BLOCK
    parts = triton.cdiv(slots, length)
    width = max(16, triton.next_power_of_2(size))  # products of tensor cores sum at least 16 numbers
    queries, out = q.to(k.dtype).contiguous(), torch.empty_like(q, memory_format=torch.contiguous_format)
    sums = q.new_empty(batch * heads, parts, group, size, dtype=torch.float32)
    logs = q.new_empty(batch * heads, parts, group, dtype=torch.float32)
    _attend_to_part[(parts, batch * heads)](
        queries, k, v, bias, sums, logs, slots, length, heads, SCALE=scale, CAP=cap or 0.0, GROUP=group, SIZE=size,
        WIDTH=width, BLOCK=BLOCK, ROWS=max(16, triton.next_power_of_2(group)), num_stages=3 if width < 256 else 2,
    )  # fmt: skip
    _merge[(batch * heads, group)](
        sums, logs, out, parts, GROUP=group, SIZE=size, WIDTH=width, PARTS=triton.next_power_of_2(parts)
    )
    return out


@attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, cap: float | None = None) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@triton.jit
def _attend_to_part(  # type: ignore[no-untyped-def]
    q, k, v, bias, sums, logs, slots, length, heads, SCALE: tl.constexpr, CAP: tl.constexpr, GROUP: tl.constexpr,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Attend to `length` slots: for one row and KV head, the mean of values and the log of the sum of weights."""
    part, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row, at, slot = tl.arange(0, ROWS), tl.arange(0, WIDTH), tl.arange(0, BLOCK)
    inside, rows = at < SIZE, row < GROUP
    queries = tl.load(q + (head * GROUP + row[:, None]) * SIZE + at, mask=rows[:, None] & inside, other=0.0)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    weighted = tl.zeros([ROWS, WIDTH], tl.float32)
    bias += (head // heads) * slots
    for start in range(part * length, tl.minimum((part + 1) * length, slots), BLOCK):
        exists = start + slot < slots
        seen = tl.load(bias + start + slot, mask=exists, other=float("-inf"))
        if tl.max(seen) > float("-inf"):
            place = (head * slots + start + slot[:, None]) * SIZE + at
            keys = tl.load(k + place, mask=exists[:, None] & inside, other=0.0)
            values = tl.load(v + place, mask=exists[:, None] & inside, other=0.0)
            scores = tl.dot(queries, keys.T) * SCALE
            if CAP > 0:
                scores = CAP - 2 * CAP / (tl.exp(2 / CAP * scores) + 1)  # CAP * tanh(scores / CAP)
            scores += seen
            new = tl.maximum(largest, tl.max(scores, 1))
            weights, shrink = tl.exp(scores - new[:, None]), tl.exp(largest - new)
            total = total * shrink + tl.sum(weights, 1)
            weighted = weighted * shrink[:, None] + tl.dot(weights.to(values.dtype), values)
            largest = new
    to = (head * tl.num_programs(0) + part) * GROUP + row
    some = tl.where(total > 0, total, 1.0)
    tl.store(logs + to, tl.where(total > 0, largest + tl.log(some), float("-inf")), mask=rows)
    tl.store(sums + to[:, None] * SIZE + at, weighted / some[:, None], mask=rows[:, None] & inside)


@triton.jit
def _merge(  # type: ignore[no-untyped-def]
    sums, logs, out, parts, GROUP: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr
):  # fmt: skip
    """Merge the parts of one query by their weights."""
    head, row = tl.program_id(0).to(tl.int64), tl.program_id(1)
    part, at = tl.arange(0, PARTS), tl.arange(0, WIDTH)
    place = (head * parts + part) * GROUP + row
    each = tl.load(logs + place, mask=part < parts, other=float("-inf"))
    weights = tl.exp(each - tl.max(each))
    inside = (part < parts)[:, None] & (at < SIZE)
    values = tl.load(sums + place[:, None] * SIZE + at, mask=inside, other=0.0)
    merged = tl.sum(values * weights[:, None], 0) / tl.sum(weights)
    tl.store(out + (head * GROUP + row) * SIZE + at, merged.to(out.dtype.element_ty), mask=at < SIZE)
