"""Products with int4 weights, beside the values that the weights stand for."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchao.quantization import Int4TilePackedTo4dTensor, Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
from transformers import TorchAoConfig

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.nn import int4
from beacon_lit.arch.nn.int4 import Int4Linear, adopt, values
from tests.arch.checkpoint.test_torchao import in_layers
from tests.arch.folders import save_backbone
from tests.arch.tiny import assert_close, tiny, tokens

SELECT = BeaconConfig(window=16, ratios=(2,), sink=2, overlap=4, placement="select", params=("k", "v"))
INTERLEAVE = BeaconConfig(window=16, ratios=(2,), sink=2, placement="interleave", params=("q", "k", "v"))


def packed(weight: Tensor, group: int = 32) -> tuple[Int4TilePackedTo4dTensor, Tensor]:
    """Pack (out, in) as the kernel `matrix_to_m16n8k16_Bint4_layout` does, thread by thread; and the values."""
    out, inputs = weight.shape
    padded = F.pad(weight, (0, -inputs % 1024, 0, -out % 8)).unflatten(1, (-1, group))
    low, high = padded.amin(-1, keepdim=True), padded.amax(-1, keepdim=True)
    scale = ((high - low) / 15).clamp(1e-6).bfloat16()
    zero = (low + 8 * scale.float()).bfloat16()
    integers = ((padded - low) / scale.float()).round().clamp(0, 15).long()
    stand_for = ((integers - 8).bfloat16() * scale.float() + zero.float()).bfloat16().flatten(1)[:out, :inputs]
    matrix = integers.flatten(1)
    tiles = torch.zeros(len(matrix) // 8, matrix.shape[1] // 128, 32, 4, dtype=torch.int64)
    for thread in range(32):
        for pair in range(4):
            start = 32 * pair + thread % 4 * 2
            at = [start + offset for offset in (0, 1, 8, 9, 16, 17, 24, 25)]
            given = matrix[thread // 4 :: 8].unflatten(1, (-1, 128))[..., at].unbind(-1)
            bits = dict(zip((0, 16, 4, 20, 8, 24, 12, 28), given, strict=True))
            tiles[:, :, thread, pair] = sum(each << shift for shift, each in bits.items())
    tiles = torch.where(tiles >= 2**31, tiles - 2**32, tiles).int()
    both = torch.cat([scale, zero], -1).transpose(0, 1).contiguous()
    return Int4TilePackedTo4dTensor(tiles, both, [1, group], weight.shape), stand_for


def layer(out: int = 20, inputs: int = 1000, bias: bool = True, group: int = 32) -> tuple[nn.Linear, nn.Linear]:
    """A layer with an int4 weight, and a plain one with the same values, in float32."""
    torch.manual_seed(0)
    plain, ours = nn.Linear(inputs, out, bias), nn.Linear(inputs, out, bias)
    ours.load_state_dict(plain.state_dict())
    tensor, stand_for = packed(plain.weight.data, group)
    ours.weight = nn.Parameter(tensor, requires_grad=False)
    plain.weight.data = stand_for.float()
    adopt(ours)
    return ours, plain


@pytest.mark.parametrize("group", [32, 64, 128, 256])
@pytest.mark.parametrize(("out", "inputs"), [(8, 1024), (20, 1000), (24, 2048)])
def test_values_are_those_that_were_packed(out: int, inputs: int, group: int) -> None:
    torch.manual_seed(out)
    tensor, stand_for = packed(torch.randn(out, inputs), group)
    found = values(tensor.qdata, tensor.scale_and_zero)[:out, :inputs]
    assert found.dtype == torch.bfloat16 and len(found.unique()) > 100
    assert torch.equal(found, stand_for)


def test_compiled_values() -> None:
    tensor, stand_for = packed(torch.randn(24, 2048))
    found = torch.compile(values, dynamic=True)(tensor.qdata, tensor.scale_and_zero)
    assert_close(found.float(), stand_for.float(), 2**-8)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_many_tokens(bias: bool, dtype: torch.dtype) -> None:
    ours, plain = layer(bias=bias)
    x = torch.randn(2, int4.FEW, 1000, dtype=dtype)
    with torch.no_grad():
        found = ours(x)
        assert found.dtype == dtype and found.shape == (2, int4.FEW, 20)
        assert_close(found.float(), plain(x.float()), 1e-5 if dtype == torch.float32 else 2**-6)


def test_few_tokens_take_the_kernel_of_torchao() -> None:
    """Which a CPU lacks."""
    ours, _ = layer()
    with torch.no_grad(), pytest.raises(NotImplementedError, match="_weight_int4pack_mm"):
        ours(torch.randn(int4.FEW, 1000))


@pytest.mark.parametrize("count", [3, 200])
def test_gradients_go_through_however_few_tokens_there_are(count: int) -> None:
    """The kernel has no derivative."""
    ours, plain = layer()
    x, slopes = torch.randn(count, 1000), torch.randn(count, 20)
    found, expected = (
        torch.autograd.grad(linear(given := x.clone().requires_grad_()), given, slopes)[0] for linear in (ours, plain)
    )
    assert_close(found, expected, 1e-5)


def test_the_weight_is_not_kept_for_the_backward_pass() -> None:
    ours, plain = layer(64, 1024)
    kept: list[Tensor] = []
    x = torch.randn(200, 1024, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        ours(x)
        assert sum(each.nbytes for each in kept) < plain.weight.nbytes / 2
        kept.clear()
        plain(x)
        assert sum(each.nbytes for each in kept) >= plain.weight.nbytes  # the control


def test_a_compiled_layer_is_one_graph() -> None:
    torch._dynamo.reset()
    ours, _ = layer()
    run = torch.compile(ours, dynamic=True, fullgraph=True, backend="aot_eager")
    for count in (200, 333):
        x = torch.randn(count, 1000)
        with torch.no_grad():
            assert_close(run(x), ours(x), 1e-5)


def test_which_layers_are_adopted() -> None:
    ours, plain = layer(bias=False)
    scaled, _ = layer(bias=False)
    scaled.__class__ = nn.Linear
    scaled.weight.act_pre_scale = torch.ones(1000)
    int8 = nn.Linear(64, 8)
    quantize_(int8, Int8WeightOnlyConfig())
    model = nn.ModuleList([ours, plain, scaled, int8, nn.LayerNorm(8)])
    adopt(model)
    assert [type(module) for module in model] == [Int4Linear, nn.Linear, nn.Linear, nn.Linear, nn.LayerNorm]


def both(family: str, beacon: BeaconConfig) -> tuple[BeaconLM, BeaconLM]:
    """A tiny model with int4 weights, and one with their values."""
    sizes: dict[str, Any] = {"hidden_size": 64, "initializer_range": 0.1}
    ours, plain = (tiny(family, beacon=beacon, **sizes) for _ in range(2))
    for (name, module), other in zip(ours.named_modules(), plain.modules(), strict=True):
        if in_layers(module, name):
            tensor, stand_for = packed(module.weight.data)
            other.weight.data = stand_for.float()
            module.weight = nn.Parameter(tensor, requires_grad=False)
    adopt(ours)
    return ours, plain


@pytest.mark.parametrize("family", ["qwen2", "phi3"])
@pytest.mark.parametrize("beacon", [SELECT, INTERLEAVE], ids=["select", "interleave"])
def test_a_model_reads_and_trains_as_with_the_values(
    family: str, beacon: BeaconConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int4, "FEW", 0)
    ours, plain = both(family, beacon)
    ids = tokens(2, 50)
    losses = [lm.train()(ids, labels=ids, ratios=2).loss for lm in (ours, plain)]
    for loss in losses:
        loss.backward()
    assert_close(losses[0].detach(), losses[1].detach(), 1e-5)
    found, expected = ({n: p.grad for n, p in lm.named_parameters() if p.requires_grad} for lm in (ours, plain))
    assert found.keys() == expected.keys() and any(gradient.any() for gradient in found.values())
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max(), name
    with torch.no_grad():
        assert_close(*(lm.eval()(ids, ratios=2).logits for lm in (ours, plain)), 1e-5)


# On a GPU

GPU = pytest.mark.gpu
METHOD = Int4WeightOnlyConfig(group_size=128, int4_packing_format="tile_packed_to_4d")


@GPU
@pytest.mark.parametrize(("out", "inputs"), [(64, 1024), (100, 1536), (3584, 3584)])
def test_values_on_a_gpu_are_those_of_the_kernel(out: int, inputs: int) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(inputs, out, False, "cuda", torch.bfloat16)
    weight = plain.weight.data
    quantize_(plain, METHOD)
    tensor: Any = plain.weight
    with torch.no_grad():
        kernel = plain(torch.eye(inputs, device="cuda", dtype=torch.bfloat16)).T
    found = values(tensor.qdata, tensor.scale_and_zero)[:out, :inputs]
    assert torch.equal(found, kernel)
    assert (found - weight).norm() < 0.15 * weight.norm()


@GPU
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@torch.no_grad()
def test_reading_is_what_the_kernel_reads(compile: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "initializer_range": 0.05}
    backbone = save_backbone(tmp_path / "backbone", **sizes)
    options: dict[str, Any] = {"dtype": torch.bfloat16, "device_map": "cuda:0"}
    lm = BeaconLM.from_pretrained(backbone, INTERLEAVE, quantization_config=TorchAoConfig(METHOD), **options).eval()
    assert sum(type(module) is Int4Linear for module in lm.modules()) == 7 * len(lm.model.layers)
    ids = tokens(1, 500).cuda()
    with monkeypatch.context() as patch:
        patch.setattr(int4, "FEW", 10**6)
        expected = lm(ids, ratios=2).logits.float()
    if compile:
        lm.compile_pointwise()
    found = lm(ids, ratios=2).logits.float()
    assert 0 < (found - expected).norm() < 0.03 * expected.norm()


@GPU
def test_beacons_are_trained_on_int4(tmp_path: Path) -> None:
    backbone = save_backbone(tmp_path / "backbone", hidden_size=256, intermediate_size=512, head_dim=64)
    options: dict[str, Any] = {"dtype": torch.bfloat16, "device_map": "cuda:0"}
    lm = BeaconLM.from_pretrained(backbone, SELECT, quantization_config=TorchAoConfig(METHOD), **options).train()
    ids = tokens(2, 50).cuda()
    optimizer = torch.optim.AdamW(lm.beacon_parameters(), 1e-2)
    losses = []
    for _ in range(20):
        loss = lm(ids, labels=ids, ratios=2).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
