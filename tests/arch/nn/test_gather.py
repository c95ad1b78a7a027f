"""Gathering with a gradient that gathers, against plain indexing."""

import pytest
import torch
from hypothesis import given

from beacon_lit.arch.nn.gather import gather
from beacon_lit.arch.plan.build import build_layout
from beacon_lit.arch.plan.windows import plan
from tests.arch.cases import Case, cases
from tests.arch.tiny import assert_close, examples


@examples(100)
@given(case=cases(rows=3))
def test_keys(case: Case) -> None:
    layout = build_layout(plan(case.lengths, case.ratios, case.beacon, case.unfinished), case.beacon)
    x = torch.randn(layout.raw + layout.beacons, 2, 3, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(len(layout.k_index), 2, 3, dtype=torch.float64)
    actual, expected = gather(x, layout.k_index, layout.k_first, layout.k_repeats, layout.k_unread), x[layout.k_index]
    assert torch.equal(actual, expected)
    assert_close(*(torch.autograd.grad(out, x, upstream)[0] for out in (actual, expected)), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_small_gradients_do_not_get_lost(dtype: torch.dtype) -> None:
    """One row that 1,000 later windows see again: in bf16, adding 1 to a sum stops at 256."""
    x = torch.zeros(2, 1, dtype=dtype, requires_grad=True)
    index = torch.cat([torch.arange(2), torch.zeros(1000, dtype=torch.int64)])
    out = gather(x, index, torch.arange(2), torch.arange(2, 1002), torch.arange(0))
    (gradient,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, torch.tensor([[1001.0], [1.0]], dtype=dtype))
