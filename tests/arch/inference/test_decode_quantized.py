"""Decoding on quantised backbones: which of them a CUDA graph can capture, and a compiled layer of packed weights."""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor import config as inductor
from torch.utils._python_dispatch import TorchDispatchMode
from torchao.kernel.intmm import safe_int_mm
from torchao.quantization import (
    Float8DynamicActivationFloat8WeightConfig,
    Float8WeightOnlyConfig,
    Int4WeightOnlyConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    PerRow,
    quantize_,
)
from transformers import TorchAoConfig

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.inference.decode import Decoding
from beacon_lit.arch.inference.decode_static import StaticDecoding, can_capture
from beacon_lit.arch.nn.decoder import run_layer
from beacon_lit.arch.nn.names import is_beacon
from tests.arch.caches import padded
from tests.arch.folders import save_backbone
from tests.arch.quantizer import RowsConfig
from tests.arch.tiny import assert_close, tiny, tokens

SELECT = BeaconConfig(window=32, ratios=(2,), sink=2, overlap=5, placement="select", params=("k", "v"))
INTERLEAVE = dataclasses.replace(SELECT, placement="interleave")
OWN_UNIT = dataclasses.replace(SELECT, placement="own-unit", params=("q", "k", "v"), unfinished="beacons")
STEPS = 40  # both rows close a window
aten = torch.ops.aten


def quantized(method: Any, beacon: BeaconConfig = SELECT, **sizes: Any) -> BeaconLM:
    """A tiny model whose backbone `quantize_` has packed."""
    lm = tiny("qwen2", beacon=beacon, num_hidden_layers=4, **sizes).eval()
    quantize_(
        lm, method, lambda module, name: isinstance(module, nn.Linear) and "layers" in name and not is_beacon(name)
    )
    return lm


@torch.no_grad()
def logits(lm: BeaconLM, way: Callable[..., Decoding] = StaticDecoding) -> Tensor:
    """(2, STEPS, V) logits after each of STEPS tokens."""
    ids, mask = padded([tokens(length, seed=length) for length in (40, 7)])
    decoding = way(lm, lm.compress(ids.to(lm.device), mask), None, None, None)
    columns = tokens(2, STEPS).to(lm.device).split(1, 1)
    return torch.cat([decoding.step(column).clone() for column in columns], 1)


@pytest.mark.parametrize("method", ["torchao", "bitsandbytes", "rows", None])
def test_which_methods_can_be_captured(method: str | None) -> None:
    lm = tiny("qwen2", beacon=SELECT)
    if method is not None:
        lm.hf_quantizer = object()
        lm.config.quantization_config = SimpleNamespace(quant_method=method)
    assert can_capture(lm) is (method in ("torchao", None))


def test_experts_cannot_be_captured() -> None:
    assert not can_capture(tiny("qwen3_moe", beacon=SELECT))


class Waiting(TorchDispatchMode):
    """Notes operations whose results the host waits for."""

    waited: bool = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.waited |= func.overloadpacket in (aten._local_scalar_dense, aten.masked_select, aten.nonzero)
        return func(*args, **kwargs or {})


def compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None


@pytest.mark.parametrize(
    ("method", "expected"), [(None, True), (Int8WeightOnlyConfig(), False), (Float8WeightOnlyConfig(), True)]
)
def test_mlps_with_int8_weights_are_not_compiled(method: Any, expected: bool) -> None:
    """Norms are, and a layer's step of decoding."""
    lm = tiny("qwen2", beacon=SELECT).eval() if method is None else quantized(method)
    lm.compile_pointwise()
    for layer in lm.model.layers:
        assert compiled(layer.mlp) is expected and compiled(layer.input_layernorm)
    assert lm.decode_layer is not run_layer


@pytest.mark.parametrize("method", [None, Int8WeightOnlyConfig(), Float8WeightOnlyConfig()])
@torch.no_grad()
def test_what_is_captured_never_waits_for_the_device(method: Any) -> None:
    lm = tiny("qwen2", beacon=SELECT).eval() if method is None else quantized(method)
    decoding = StaticDecoding(lm, lm.compress(tokens(1, 40)), None, None, None)
    decoding.step(tokens(1, 1))
    with Waiting() as mode:
        decoding._run()
    assert can_capture(lm) and not mode.waited
    with mode:
        lm.compress(tokens(1, 40)).hidden.sum().item()  # a negative control
    assert mode.waited


@torch.no_grad()
def test_a_step_with_beacons_never_waits_either() -> None:
    lm = tiny("gemma2", beacon=OWN_UNIT).eval()
    decoding = StaticDecoding(lm, lm.compress(tokens(1, 41)), None, None, None)
    decoding.step(tokens(1, 1))
    assert decoding.tokens == 2
    with Waiting() as mode:
        decoding._run()
    assert not mode.waited


def test_products_with_8_bit_activations_print_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is how torchao recognises fake tensors on a GPU, unless the product is compiled."""
    printed: list[Tensor] = []
    monkeypatch.setattr(Tensor, "__repr__", lambda tensor: printed.append(tensor) or "tensor")
    safe_int_mm(*(torch.ones(16, 16, dtype=torch.int8) for _ in range(2)))
    assert len(printed) == 1
    assert not can_capture(quantized(Int8DynamicActivationInt8WeightConfig()))


def test_packed_weights_that_have_not_been_tried_are_not_captured() -> None:
    assert not can_capture(quantized(IntxWeightOnlyConfig()))


def test_models_that_are_loaded_quantised_or_quantised_afterwards(tmp_path: Path) -> None:
    backbone = save_backbone(tmp_path / "backbone")
    for config, expected in ((TorchAoConfig(Int8WeightOnlyConfig()), True), (RowsConfig(), False)):
        assert can_capture(BeaconLM.from_pretrained(backbone, SELECT, quantization_config=config)) is expected
    assert can_capture(quantized(Int8WeightOnlyConfig()))


@pytest.mark.parametrize(
    ("method", "beacon"),
    [
        (Int8WeightOnlyConfig(), SELECT),
        (Float8WeightOnlyConfig(), SELECT),
        (Int8DynamicActivationInt8WeightConfig(), SELECT),
        (Int8DynamicActivationInt8WeightConfig(), INTERLEAVE),
    ],
)
def test_one_graph_without_breaks_for_all_layers(method: Any, beacon: BeaconConfig) -> None:
    torch._dynamo.reset()
    lm = quantized(method, beacon)
    expected, counter = logits(lm), CompileCounterWithBackend("aot_eager")
    lm.decode_layer = torch.compile(run_layer, backend=counter, dynamic=False, fullgraph=True)
    found = logits(lm)
    assert counter.frame_count == 1
    assert_close(found, expected, 1e-5)
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


def test_loading_leaves_the_settings_of_compilation_alone(tmp_path: Path) -> None:
    """With those that torchao prefers, all that is compiled would be tuned for minutes."""
    save_backbone(tmp_path)
    method = Int8WeightOnlyConfig()
    with inductor.patch(coordinate_descent_tuning=False, coordinate_descent_check_all_directions=False):
        BeaconLM.from_pretrained(tmp_path, beacon=SELECT, quantization_config=TorchAoConfig(method))
        assert not (inductor.coordinate_descent_tuning or inductor.coordinate_descent_check_all_directions)
        assert method.set_inductor_config  # the caller's, of which a copy is changed
        quantize_(tiny("qwen2", beacon=SELECT), method, lambda module, name: name.endswith("down_proj"))
        assert inductor.coordinate_descent_tuning and inductor.coordinate_descent_check_all_directions


# On a GPU

METHODS = {
    "int8": Int8WeightOnlyConfig(),
    "int4": Int4WeightOnlyConfig(group_size=128, int4_packing_format="tile_packed_to_4d"),  # needs no other package
    "int4 plain": Int4WeightOnlyConfig(group_size=128),
    "float8": Float8WeightOnlyConfig(),
    "float8 dynamic": Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()),
}
NEEDS_MSLK = pytest.mark.skipif(importlib.util.find_spec("mslk") is None, reason="needs the package mslk")


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=NEEDS_MSLK if name == "int4 plain" else ()) for name in METHODS]
)
def test_the_graph_reads_what_calls_read(name: str, compiled: bool, tmp_path: Path) -> None:
    """As far from calls from cache to cache as bfloat16, or 8-bit activations, round; and never without a graph."""
    torch._dynamo.reset()
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "initializer_range": 0.05}
    options: dict[str, Any] = {"dtype": torch.bfloat16, "device_map": "cuda:0"}
    backbone = save_backbone(tmp_path / "backbone", **sizes)
    config = TorchAoConfig(METHODS[name])
    lm = BeaconLM.from_pretrained(backbone, INTERLEAVE, quantization_config=config, **options).eval()
    expected = logits(lm, Decoding).float()
    if compiled:
        lm.compile_pointwise()
    made: list[StaticDecoding] = []

    def static(*arguments: Any) -> StaticDecoding:
        made.append(StaticDecoding(*arguments))
        return made[0]

    found = logits(lm, static).float()
    assert made[0].graphs.captures and len(made[0].graphs) > 0
    assert (found - expected).norm() < (0.15 if "dynamic" in name else 0.03) * expected.norm()
    assert (found.argmax(-1) == expected.argmax(-1)).float().mean() > 0.7
