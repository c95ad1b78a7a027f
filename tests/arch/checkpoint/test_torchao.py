"""Backbones that torchao quantises: weights are tensors that look plain, and hold integers and scales."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int4WeightOnlyConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    quantize_,
)
from transformers import AutoModelForCausalLM, TorchAoConfig

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.checkpoint import is_adapter, is_beacon, save_published
from beacon_lit.arch.nn.packed import is_packed, stored
from tests.arch.folders import IDS, assert_same, read_trained_beacons, save_backbone, trained
from tests.arch.tiny import DENSE, SLIDING, assert_close, tiny

BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, params=("q", "k", "v", "o"), placement="interleave")
SELECT = BeaconConfig(window=8, ratios=(2, 4), sink=2, placement="select")
WEIGHT_ONLY = pytest.mark.parametrize(
    "method", [Int8WeightOnlyConfig(), Float8WeightOnlyConfig()], ids=["int8", "float8"]
)
GREEDY: dict[str, Any] = {"ratios": 2, "max_new_tokens": 20, "do_sample": False, "eos_token_id": None}


def quantized(path: Path, *args: Any, method: Any = None, **options: Any) -> BeaconLM:
    config = TorchAoConfig(method or Int8WeightOnlyConfig())
    return BeaconLM.from_pretrained(path, *args, quantization_config=config, **options)


def in_layers(module: nn.Module, name: str) -> bool:
    """The backbone's linear layers, as `quantize_` chooses modules."""
    return isinstance(module, nn.Linear) and name.startswith("model.layers.") and not is_beacon(name)


def rounded(backbone: Path, folder: Path, family: str, method: Any) -> Path:
    """The backbone with the values that its packed weights stand for, in a plain folder."""
    model = DENSE[family].from_pretrained(backbone)
    quantize_(model, method, in_layers)
    for module in model.modules():
        if isinstance(module, nn.Linear) and is_packed(module.weight):
            module.weight = nn.Parameter(module.weight.dequantize())
    model.save_pretrained(folder)
    return folder


def gradients(lm: BeaconLM) -> dict[str, Tensor]:
    lm.train()(IDS, labels=IDS, ratios=2).loss.backward()
    return {name: parameter.grad for name, parameter in lm.named_parameters() if parameter.requires_grad}


def packed(lm: BeaconLM) -> set[str]:
    return {name for name, parameter in lm.named_parameters() if is_packed(parameter)}


def linear_weights(lm: BeaconLM) -> set[str]:
    return {f"{name}.weight" for name, module in lm.named_modules() if in_layers(module, name)}


@pytest.mark.parametrize("family", ["qwen2", "llama", "phi3", *SLIDING])
@WEIGHT_ONLY
def test_a_plain_backbone(family: str, method: Any, tmp_path: Path) -> None:
    """Own maps, logits, tokens and gradients are those of the backbone with the rounded weights."""
    backbone = save_backbone(tmp_path / "backbone", family)
    lm = quantized(backbone, BEACON, method=method)
    assert packed(lm) == linear_weights(lm) and len(packed(lm)) >= 4 * len(lm.model.layers)
    expected = BeaconLM.from_pretrained(rounded(backbone, tmp_path / "rounded", family, method), BEACON)
    for ours, theirs in zip(lm.beacon_parameters(), expected.beacon_parameters(), strict=True):
        assert ours.requires_grad
        assert_close(ours, theirs, 1e-6)
    assert_close(lm(IDS, ratios=2).logits, expected(IDS, ratios=2).logits, 1e-5)
    assert_close(lm.dense(IDS).logits, expected.dense(IDS).logits, 1e-5)
    assert torch.equal(lm.generate(IDS, **GREEDY), expected.generate(IDS, **GREEDY))
    ours, theirs = gradients(lm), gradients(expected)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert gradient.any() or "layers.0." not in name  # of the first layer through packed weights of the others
        assert (ours[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max(), name


@pytest.mark.parametrize("kind", ["full", "beacons"])
@pytest.mark.parametrize("beacon_dtype", [None, "float32"])
def test_trained_beacons_are_read_as_they_are(kind: str, beacon_dtype: str | None, tmp_path: Path) -> None:
    for found in read_trained_beacons(tmp_path, kind, beacon_dtype, BEACON, TorchAoConfig(Int8WeightOnlyConfig())):
        assert packed(found) == linear_weights(found)


@pytest.mark.parametrize("method", [Int8WeightOnlyConfig(), Int8DynamicActivationInt8WeightConfig()])
def test_low_rank_maps_and_modules_that_stay_plain(method: Any, tmp_path: Path) -> None:
    """Maps that add to a projection, and a caller's own list, which does not replace the head and the beacons."""
    beacon = BeaconConfig(window=8, ratios=(2,), sink=2, params=("k", "gate:4"), placement="interleave")
    lm = trained(save_backbone(tmp_path / "backbone", tie_word_embeddings=False), beacon)
    lm.save_pretrained(tmp_path / "full", beacon_only=False)
    config = TorchAoConfig(method, modules_to_not_convert=["down_proj.weight"])
    for given in (config, config.to_dict()):
        found = BeaconLM.from_pretrained(tmp_path / "full", quantization_config=given)
        assert packed(found) == {name for name in linear_weights(found) if "down_proj" not in name}
        assert config.modules_to_not_convert == ["down_proj.weight"]
        assert found(IDS, ratios=2).logits.isfinite().all()


def test_a_backbone_that_is_quantised_on_disk(tmp_path: Path) -> None:
    config = TorchAoConfig(Int8WeightOnlyConfig())
    plain = DENSE["qwen2"].from_pretrained(save_backbone(tmp_path / "backbone"), quantization_config=config)
    plain.save_pretrained(tmp_path / "packed")
    lm = BeaconLM.from_pretrained(tmp_path / "packed", BEACON)
    assert torch.equal(lm.dense(IDS).logits, plain(IDS).logits)
    projection = lm.model.layers[1].self_attn
    assert_close(projection.beacon_k_proj.weight, projection.k_proj.weight.dequantize(), 1e-6)
    lm.save_pretrained(tmp_path / "beacons")
    fresh = quantized(tmp_path / "backbone", BEACON)
    fresh.save_pretrained(tmp_path / "full", beacon_only=False)
    again = BeaconLM.from_pretrained(tmp_path / "full")
    again.save_pretrained(tmp_path / "again", beacon_only=False, save_original_format=False)
    for kind in ("beacons", "full", "again"):
        for load in (BeaconLM.from_pretrained, AutoModelForCausalLM.from_pretrained):
            found = load(tmp_path / kind)
            assert packed(found) == packed(lm)
            assert torch.equal(found(IDS, ratios=2).logits, lm(IDS, ratios=2).logits)


def test_beacons_trained_on_a_quantised_backbone(tmp_path: Path) -> None:
    """They are for the backbone, however it is loaded: its fingerprint is what is not packed."""
    lm = trained(
        save_backbone(tmp_path / "backbone"), BEACON, quantization_config=TorchAoConfig(Int8WeightOnlyConfig())
    )
    lm.save_pretrained(tmp_path / "beacons")
    for found in (quantized(tmp_path / "beacons"), BeaconLM.from_pretrained(tmp_path / "beacons")):
        for ours, theirs in zip(found.beacon_parameters(), lm.beacon_parameters(), strict=True):
            assert torch.equal(ours, theirs)
    other = save_backbone(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"other weights \((embed_tokens|norm) differs\)"):
        quantized(tmp_path / "beacons", backbone=str(other))


def test_an_adapter_is_trained_and_not_merged(tmp_path: Path) -> None:
    lm = quantized(save_backbone(tmp_path / "backbone"), SELECT)
    lm.add_adapter(LoraConfig(r=4, target_modules="all-linear"))
    found = gradients(lm)
    assert all(found[name].isfinite().all() for name in found) and any(map(is_adapter, found))
    lm.save_pretrained(tmp_path / "beacons")
    assert_close(quantized(tmp_path / "beacons").eval()(IDS, ratios=2).logits, lm.eval()(IDS, ratios=2).logits, 1e-6)
    with pytest.raises(ValueError, match="quantization_config='torchao' is not allowed for merging an adapter"):
        lm.merge_adapter()


@pytest.mark.parametrize("way", ["loaded", "afterwards"])
def test_a_packed_backbone_is_not_written(way: str, tmp_path: Path) -> None:
    """Neither if it was loaded so, nor if `quantize_` packed it afterwards."""
    backbone = save_backbone(tmp_path / "backbone")
    lm = quantized(backbone, BEACON) if way == "loaded" else BeaconLM.from_pretrained(backbone, BEACON)
    if way == "afterwards":
        quantize_(lm, Int8WeightOnlyConfig(), in_layers)
    with pytest.raises(ValueError, match="quantization_config='torchao' is not allowed to write the backbone"):
        lm.save_backbone(tmp_path / "plain")
    with pytest.raises(ValueError, match="quantization_config='torchao' is not allowed in the published layout"):
        save_published(lm, tmp_path / "published")
    lm.save_pretrained(tmp_path / "beacons")
    if way == "afterwards":
        assert_same(BeaconLM.from_pretrained(tmp_path / "beacons"), BeaconLM.from_pretrained(backbone, BEACON))


def test_a_packed_head_is_refused(tmp_path: Path) -> None:
    config = TorchAoConfig(Int8WeightOnlyConfig(), include_input_output_embeddings=True)
    message = "quantization_config='torchao' packs lm_head.weight; allowed: one that leaves beacons, embedding and head"
    with pytest.raises(ValueError, match=message):
        BeaconLM.from_pretrained(save_backbone(tmp_path / "backbone"), BEACON, quantization_config=config)


def test_a_method_that_cannot_run_here_is_named_with_its_cause(tmp_path: Path) -> None:
    backbone = save_backbone(tmp_path / "backbone")
    with pytest.raises(ValueError, match=r"cannot load .*backbone: ImportError: Requires mslk"):
        quantized(backbone, BEACON, method=Int4WeightOnlyConfig(group_size=32))


def test_what_a_packed_tensor_stores() -> None:
    layer = nn.Linear(64, 8, dtype=torch.bfloat16)
    assert list(stored(layer.weight)) == [layer.weight] and not is_packed(layer.weight)
    quantize_(layer, Int8WeightOnlyConfig())
    assert is_packed(layer.weight) and layer.weight.dtype == torch.bfloat16
    assert sum(inner.nbytes for inner in stored(layer.weight)) == 64 * 8 + 8 * 4 + 8  # integers, scales, zero points


def test_tiny_models_are_plain() -> None:
    assert not packed(tiny("qwen2", beacon=BEACON))
