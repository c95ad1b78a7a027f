"""The compilation of a decoding step: its own operations, which torch's cache of compiled code can name."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._inductor import compile_fx

from beacon_lit import BeaconConfig
from beacon_lit.arch.inference.decode_static import StaticDecoding
from beacon_lit.arch.nn.fuse import Decompositions, row_by_matrix
from tests.arch.tiny import assert_close, tiny, tokens

ADDMM = torch.ops.aten.addmm.default


def test_operations_are_named_in_caches() -> None:
    """The key of compiled code holds them. If they had none, each process would compile anew."""
    own = Decompositions.own()
    assert own[ADDMM] is row_by_matrix and torch.ops.aten.mm.default in own
    named = pickle.dumps(own)
    assert named == pickle.dumps(Decompositions.own()) and len(named) < 200
    assert pickle.loads(named) == own
    with pytest.raises((TypeError, RuntimeError)):
        pickle.dumps(dict(own))


def test_products_on_a_cpu_stay_products() -> None:
    assert row_by_matrix(torch.zeros(2), torch.ones(1, 3), torch.ones(3, 2)) is NotImplemented


@torch.no_grad()
def test_a_step_is_compiled_with_them_and_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def compiled(graph: torch.fx.GraphModule, inputs: Any, **options: Any) -> Callable[..., Any]:
        given.append(options)
        return graph.forward

    monkeypatch.setattr(compile_fx, "compile_fx", compiled)
    torch._dynamo.reset()
    lm = tiny("qwen2", beacon=BeaconConfig(window=32, ratios=(2,), placement="select", params=("k", "v"))).eval()
    ids = tokens(1, 20)
    expected = StaticDecoding(lm, lm.compress(ids), None, None, None).step(ids[:, :1])
    lm.compile_pointwise()
    assert_close(StaticDecoding(lm, lm.compress(ids), None, None, None).step(ids[:, :1]), expected, 1e-5)
    (tuned,) = [options for options in given if isinstance(options.get("decompositions"), Decompositions)]
    assert tuned["config_patches"] == {"coordinate_descent_tuning": True}
    torch._dynamo.reset()
