"""FlashDecoding of one query per row, against softmax written out."""

import importlib.util
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from beacon_lit.arch.inference import static
from beacon_lit.arch.nn.fuse import row_by_matrix
from tests.arch.tiny import assert_close

pytestmark = pytest.mark.gpu
SCALE = 0.3


class Sizes(NamedTuple):
    """Rows, KV heads, queries of a KV head, slots, and a head's size."""

    rows: int
    heads: int
    group: int
    slots: int
    size: int


SIZES = [
    Sizes(1, 4, 7, 4096, 128),
    Sizes(3, 2, 2, 1024, 96),
    Sizes(2, 1, 20, 512, 16),
    Sizes(40, 8, 1, 1536, 256),
    Sizes(1, 2, 2, 96, 16),
    Sizes(2, 2, 2, 512, 8),
]


def inputs(sizes: Sizes, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Random q, k and v, and a bias that hides other slots in every row."""
    torch.manual_seed(0)
    rows, heads, group, slots, size = sizes
    q = torch.randn(rows, heads * group, size, device="cuda").to(dtype)
    k, v = torch.randn(2, rows, heads, slots, size, device="cuda").to(dtype)
    slot, row = torch.arange(slots, device="cuda"), torch.arange(rows, device="cuda")[:, None]
    seen = (slot >= 70 * row) & (slot <= slots // 2 + row) | (slot == slots - 1)
    return q, k, v, torch.zeros(seen.shape, device="cuda").masked_fill(~seen, float("-inf"))[:, None]


def expected(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, cap: float | None = None) -> Tensor:
    """Softmax written out in float64."""
    q, k, v = (x.double() for x in (q, k, v))
    scores = torch.einsum("bkgh,bksh->bkgs", q.unflatten(1, (k.shape[1], -1)), k) * SCALE
    scores = scores if cap is None else cap * torch.tanh(scores / cap)
    return torch.einsum("bkgs,bksh->bkgh", (scores + bias[:, None]).softmax(-1), v).flatten(1, 2)


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", SIZES)
def test_softmax_written_out(sizes: Sizes, dtype: torch.dtype, cap: float | None) -> None:
    from beacon_lit.arch.nn import flash_decoding

    q, k, v, bias = inputs(sizes, dtype)
    found = flash_decoding.attend(q, k, v, bias, SCALE, cap)
    assert found.dtype == dtype
    assert_close(found.double(), expected(q, k, v, bias, cap), 2e-2 if dtype == torch.bfloat16 else 2e-3)
    assert (found.double() - expected(q, k, v, bias, 1.0)).abs().max() > 2e-2  # another cap is told apart


def test_decoding_runs_it_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products over slots give the same; in float32 they are what runs."""
    q, k, v, bias = inputs(SIZES[0], torch.bfloat16)
    fast = static.attend(q, k, v, bias, SCALE)
    monkeypatch.setattr(static, "flash_decoding", None)
    assert_close(fast.float(), static.attend(q, k, v, bias, SCALE).float(), 1e-2)
    assert_close(static.attend(q.float(), k.float(), v.float(), bias, SCALE), expected(q, k, v, bias).float(), 1e-3)


def test_slots_that_no_query_sees_are_not_read() -> None:
    """Their keys are not numbers."""
    q, k, v, bias = inputs(SIZES[0], torch.bfloat16)
    clean = static.attend(q, k, v, bias, SCALE)
    hidden = bias[0, 0].unflatten(0, (-1, 64)).isinf().all(1).repeat_interleave(64)
    assert hidden.any()
    k[:, :, hidden] = float("nan")
    assert torch.equal(static.attend(q, k, v, bias, SCALE), clean)


def test_triton_comes_with_torch_for_gpus() -> None:
    assert importlib.util.find_spec("triton") is not None and static.flash_decoding is not None


def test_a_product_of_one_row() -> None:
    """A sum rounds once, as the product does; more rows stay a product."""
    torch.manual_seed(0)
    bias, row, matrix = (torch.randn(*shape, device="cuda").bfloat16() for shape in ((64,), (1, 512), (512, 64)))
    exact = bias.double() + row.double() @ matrix.double()
    assert torch.equal(row_by_matrix(bias, row, matrix), exact.to(torch.bfloat16))
    assert row_by_matrix(bias, row.expand(2, -1), matrix) is NotImplemented
    assert row_by_matrix(bias, row, matrix, alpha=2) is NotImplemented


def test_compiled_code_serves_all_numbers_of_rows_and_slots() -> None:
    """How slots are cut into parts depends on both."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(static.attend, backend=counter)
    for rows, slots in ((2, 1024), (3, 4096), (5, 512), (30, 1536), (7, 100)):
        q, k, v, bias = inputs(Sizes(rows, 2, 7, slots, 64), torch.bfloat16)
        assert torch.equal(compiled(q, k, v, bias, SCALE), static.attend(q, k, v, bias, SCALE))
    assert counter.frame_count == 2  # the sizes of the first call, and any


def test_the_operator_is_what_torch_expects() -> None:
    from beacon_lit.arch.nn import flash_decoding

    for cap in (None, 2.0):
        torch.library.opcheck(flash_decoding.attend, (*inputs(SIZES[1], torch.bfloat16), SCALE, cap))
