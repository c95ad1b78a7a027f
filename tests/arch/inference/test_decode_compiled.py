"""A layer's decoding step is compiled once for all layers, and computes the same."""

import dataclasses
import inspect
import itertools
from collections.abc import Sequence

import pytest
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._dynamo.testing import CompileCounter

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.inference.decode_static import StaticDecoding
from beacon_lit.arch.nn import grouped
from beacon_lit.arch.nn.decoder import DecoderLayer, run_layer
from beacon_lit.arch.nn.grouped import GroupedStep
from tests.arch.caches import padded
from tests.arch.tiny import assert_close, kinds, tiny, tokens

BEACON = BeaconConfig(window=32, ratios=(2,), sink=2, overlap=5, placement="interleave")
SELECT = dataclasses.replace(BEACON, placement="select", params=("k", "v"))
OPEN = dataclasses.replace(BEACON, unfinished="beacons")
SHARES = list(itertools.product((0.5, 0.75, 1.25, 1.5), repeat=4))  # of a layer's KV heads
UNEVEN = tuple(shares for shares in SHARES if sum(shares) == 4)[::3]
LIMIT = 4


@torch.no_grad()
def logits(lm: BeaconLM, lengths: tuple[int, int] = (40, 7)) -> torch.Tensor:
    """(2, 40, V) logits after each of 40 tokens, in static buffers: both rows close a window."""
    ids, mask = padded([tokens(length, seed=length) for length in lengths])
    decoding = StaticDecoding(lm, lm.compress(ids, mask), None, None, None)
    return torch.cat([decoding.step(column).clone() for column in tokens(2, 40).split(1, 1)], 1)


@pytest.mark.parametrize("beacon", [BEACON, SELECT], ids=["interleave", "select"])
def test_one_graph_for_layers_that_are_alike(beacon: BeaconConfig) -> None:
    torch._dynamo.reset()
    lm = tiny("qwen2", beacon=beacon, num_hidden_layers=4).eval()
    expected, counter = logits(lm), CompileCounter()
    lm.decode_layer = torch.compile(run_layer, backend=counter, dynamic=False, fullgraph=True)
    assert_close(logits(lm), expected, 1e-6)
    assert counter.frame_count == 1


def uneven(layers: int) -> BeaconLM:
    """A model whose layers divide their KV heads into groups in as many ways as there are layers."""
    beacon = dataclasses.replace(SELECT, head_budgets=UNEVEN[:layers])
    heads = {"num_hidden_layers": layers, "num_attention_heads": 8, "num_key_value_heads": 4}
    lm = tiny("qwen2", beacon=beacon, **heads).eval()
    assert len(set(zip(*lm.groups.members, strict=True))) == layers
    return lm


def test_layers_that_divide_their_heads_in_many_ways() -> None:
    """They share what is compiled; torch keeps few cases of a function."""
    torch._dynamo.reset()
    lm = uneven(LIMIT + 1)
    expected, counter = logits(lm), CompileCounter()
    lm.decode_layer = torch.compile(run_layer, backend=counter)
    with torch._dynamo.config.patch(recompile_limit=LIMIT, fail_on_recompile_limit_hit=True):
        assert_close(logits(lm), expected, 1e-6)
    assert counter.frame_count <= 6  # before attention, after it, and a group's step with one head and with more


def test_layers_that_are_compiled_whole_reach_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above."""
    torch._dynamo.reset()
    monkeypatch.setattr(GroupedStep, "attend", inspect.unwrap(GroupedStep.attend))
    monkeypatch.setattr(grouped, "_some", inspect.unwrap(grouped._some))
    monkeypatch.setattr(grouped, "_in_order", inspect.unwrap(grouped._in_order))
    lm = uneven(LIMIT + 1)
    lm.decode_layer = torch.compile(run_layer, backend=CompileCounter())
    limit = torch._dynamo.config.patch(recompile_limit=LIMIT, fail_on_recompile_limit_hit=True)
    with limit, pytest.raises(FailOnRecompileLimitHit):
        logits(lm)


def test_one_graph_for_raw_tokens_and_one_with_beacons() -> None:
    torch._dynamo.reset()
    lm = tiny("qwen2", beacon=OPEN, num_hidden_layers=4).eval()
    lengths = 40, 8  # both rows' units are complete in every second step
    expected, counter = logits(lm, lengths), CompileCounter()
    lm.decode_layer = torch.compile(run_layer, backend=counter, dynamic=False, fullgraph=True)
    assert_close(logits(lm, lengths), expected, 1e-6)
    assert counter.frame_count == 2


def test_one_graph_for_each_kind_of_layers() -> None:
    """With caps of scores; a sliding window is the same step with other keys to see."""
    torch._dynamo.reset()
    lm = tiny("gemma2", beacon=SELECT, **kinds("smsm", 21)).eval()
    expected, counter = logits(lm), CompileCounter()
    lm.decode_layer = torch.compile(run_layer, backend=counter, dynamic=False, fullgraph=True)
    assert_close(logits(lm), expected, 1e-6)
    assert counter.frame_count == 2


def test_a_step_that_differs_between_layers_is_compiled_anew() -> None:
    """A negative control: the count above tells layers apart."""
    torch._dynamo.reset()
    lm, counter = tiny("qwen2", beacon=SELECT, num_hidden_layers=4).eval(), CompileCounter()

    def by_index(layer: DecoderLayer, *arguments: Sequence[object]) -> torch.Tensor:
        return run_layer(layer, *arguments) * (1 + 0 * layer.self_attn.layer_idx)

    lm.decode_layer = torch.compile(by_index, backend=counter, dynamic=False)
    logits(lm)
    assert counter.frame_count == 4
