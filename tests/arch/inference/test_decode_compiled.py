"""A layer's decoding step is compiled once for all layers, and computes the same."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.inference.decode_static import StaticDecoding
from beacon_lit.arch.nn.decoder import DecoderLayer, run_layer
from tests.arch.caches import padded
from tests.arch.tiny import assert_close, kinds, tiny, tokens

BEACON = BeaconConfig(window=32, ratios=(2,), sink=2, overlap=5, placement="interleave")
SELECT = dataclasses.replace(BEACON, placement="select", params=("k", "v"))
ALIKE = dataclasses.replace(SELECT, head_budgets=((1.5, 0.5),) * 4)
OPEN = dataclasses.replace(BEACON, unfinished="beacons")
UNEVEN = dataclasses.replace(SELECT, head_budgets=((1.5, 0.5), (1.0, 1.0), (0.5, 1.5), (1.0, 1.0)))


@torch.no_grad()
def logits(lm: BeaconLM, lengths: tuple[int, int] = (40, 7)) -> torch.Tensor:
    """(2, 40, V) logits after each of 40 tokens, in static buffers: both rows close a window."""
    ids, mask = padded([tokens(length, seed=length) for length in lengths])
    decoding = StaticDecoding(lm, lm.compress(ids, mask), None, None, None)
    return torch.cat([decoding.step(column).clone() for column in tokens(2, 40).split(1, 1)], 1)


@pytest.mark.parametrize("beacon", [BEACON, SELECT, ALIKE, UNEVEN], ids=["interleave", "select", "budgets", "uneven"])
def test_one_graph_for_layers_that_are_alike(beacon: BeaconConfig) -> None:
    torch._dynamo.reset()
    lm = tiny("qwen2", beacon=beacon, num_hidden_layers=4).eval()
    expected, counter = logits(lm), CompileCounter()
    lm.decode_layer = torch.compile(run_layer, backend=counter, dynamic=False, fullgraph=True)
    assert_close(logits(lm), expected, 1e-6)
    kinds = 1 if beacon.head_budgets is None else len(set(beacon.head_budgets))
    assert counter.frame_count == kinds


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
