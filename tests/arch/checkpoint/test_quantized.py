"""Quantised backbones: beacons stay in floating point, and start from the values that packed weights stand for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.checkpoint import save_published, settings
from tests.arch.folders import IDS, assert_same, read_trained_beacons, save_backbone, trained
from tests.arch.quantizer import RowsConfig, RowsLinear, pack
from tests.arch.tiny import DENSE, FAMILIES, SLIDING, tokens

BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, params=("q", "k", "v", "o"), placement="interleave")


def quantized(path: Path, *args: Any, **options: Any) -> BeaconLM:
    return BeaconLM.from_pretrained(path, *args, quantization_config=RowsConfig(), **options)


def rounded(backbone: Path, folder: Path, family: str = "qwen2") -> Path:
    """The backbone with the values that its packed projections stand for, in a plain folder."""
    model = DENSE[family].from_pretrained(backbone)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_proj.weight"):
                packed, steps = pack(parameter)
                parameter.copy_(packed.view(parameter.shape).float() * steps)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", (*FAMILIES, "phi3", *SLIDING))
def test_a_plain_backbone(family: str, tmp_path: Path) -> None:
    backbone = save_backbone(tmp_path / "backbone", family)
    lm = quantized(backbone, BEACON)
    expected = BeaconLM.from_pretrained(rounded(backbone, tmp_path / "rounded", family), BEACON)
    first = "qkv_proj" if family == "phi3" else "q_proj"
    assert type(getattr(lm.model.layers[0].self_attn, first)) is RowsLinear
    for ours, theirs in zip(lm.beacon_parameters(), expected.beacon_parameters(), strict=True):
        assert ours.requires_grad and torch.equal(ours, theirs)
    assert torch.equal(lm(IDS, ratios=2).logits, expected(IDS, ratios=2).logits)
    options = {"ratios": 2, "max_new_tokens": 9, "do_sample": False, "eos_token_id": None}
    assert torch.equal(lm.generate(IDS, **options), expected.generate(IDS, **options))
    exact = BeaconLM.from_pretrained(backbone, BEACON)
    ours, theirs = (each.model.layers[0].self_attn.beacon_q_proj.weight for each in (lm, exact))
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["full", "beacons"])
@pytest.mark.parametrize("beacon_dtype", [None, "float32"])
def test_trained_beacons_are_read_as_they_are(kind: str, beacon_dtype: str | None, tmp_path: Path) -> None:
    for found in read_trained_beacons(tmp_path, kind, beacon_dtype, BEACON, RowsConfig()):
        assert type(found.model.layers[1].self_attn.v_proj) is RowsLinear


def test_a_backbone_that_is_quantised_on_disk(tmp_path: Path) -> None:
    plain = DENSE["qwen2"].from_pretrained(save_backbone(tmp_path / "backbone"), quantization_config=RowsConfig())
    plain.save_pretrained(tmp_path / "packed")
    lm = BeaconLM.from_pretrained(tmp_path / "packed", BEACON)
    assert torch.equal(lm.dense(IDS).logits, plain(IDS).logits)
    projection = lm.model.layers[1].self_attn
    assert torch.equal(projection.beacon_k_proj.weight, projection.k_proj.values())
    lm.save_pretrained(tmp_path / "beacons")
    lm.save_pretrained(tmp_path / "full", beacon_only=False)
    for kind in ("beacons", "full"):
        for load in (BeaconLM.from_pretrained, AutoModelForCausalLM.from_pretrained):
            assert_same(lm, load(tmp_path / kind))


def test_beacons_trained_on_a_quantised_backbone(tmp_path: Path) -> None:
    """They are for the backbone, however it is loaded: its fingerprint is what is not packed."""
    backbone = save_backbone(tmp_path / "backbone")
    lm = trained(backbone, BEACON, quantization_config=RowsConfig())
    lm.save_pretrained(tmp_path / "beacons")
    assert_same(lm, quantized(tmp_path / "beacons"))
    for load in (BeaconLM.from_pretrained, AutoModelForCausalLM.from_pretrained):
        found = load(tmp_path / "beacons")
        assert type(found.model.layers[0].self_attn.q_proj) is torch.nn.Linear
        for ours, theirs in zip(found.beacon_parameters(), lm.beacon_parameters(), strict=True):
            assert torch.equal(ours, theirs)
    other = save_backbone(tmp_path / "other", seed=1)
    for load in (BeaconLM.from_pretrained, quantized):
        with pytest.raises(ValueError, match=r"other weights \((embed_tokens|norm) differs\)"):
            load(tmp_path / "beacons", backbone=str(other))


def test_beacons_of_another_backbone_are_refused(tmp_path: Path) -> None:
    trained(save_backbone(tmp_path / "backbone"), BEACON).save_pretrained(tmp_path / "beacons")
    other = save_backbone(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="other weights"):
        quantized(tmp_path / "beacons", backbone=str(other))
    quantized(tmp_path / "beacons", backbone=str(other), allow_other_backbone=True)


def test_a_quantisation_that_packs_beacons_is_refused(tmp_path: Path) -> None:
    lm = trained(save_backbone(tmp_path / "backbone"), BEACON)
    lm.save_pretrained(tmp_path / "full", beacon_only=False)
    message = (
        r"quantization_config='rows' packs model.layers.0.self_attn.beacon_q_proj.weight; allowed: one that leaves"
    )
    with pytest.raises(ValueError, match=message):
        BeaconLM.from_pretrained(tmp_path / "full", quantization_config=RowsConfig(everything=True))


def test_a_checkpoint_with_a_trained_backbone_is_not_put_on_a_quantised_one(tmp_path: Path) -> None:
    lm = BeaconLM.from_pretrained(save_backbone(tmp_path / "backbone"), BEACON)
    lm.save_pretrained(tmp_path / "beacons")
    state = {f"lm.{name}": value for name, value in lm.state_dict().items()}
    torch.save({"state_dict": state, "beacon_settings": settings(lm)}, tmp_path / "last.ckpt")
    BeaconLM.from_pretrained(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"quantization_config is not allowed for .*last.ckpt.*beacon_only=False"):
        quantized(tmp_path / "last.ckpt")


def test_the_published_layout_has_no_quantised_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="quantization_config='rows' is not allowed in the published layout"):
        save_published(quantized(save_backbone(tmp_path / "backbone"), BEACON), tmp_path / "published")


# bitsandbytes, on a GPU


def bits(count: int) -> Any:
    from transformers import BitsAndBytesConfig

    if count == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def likeness(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two models' logits."""
    return float(torch.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["backbone", "full", "beacons"])
@pytest.mark.parametrize(("count", "least"), [(8, 0.99), (4, 0.85)])
def test_bitsandbytes(kind: str, count: int, least: float, tmp_path: Path) -> None:
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    shape = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "initializer_range": 0.1}
    lm = trained(save_backbone(tmp_path / "backbone", **shape), BEACON, dtype=torch.bfloat16)
    if kind != "backbone":
        lm.save_pretrained(tmp_path / kind, beacon_only=kind == "beacons")
    options: dict[str, Any] = {"dtype": torch.bfloat16, "attn": "sdpa", "device_map": "cuda:0"}
    exact = BeaconLM.from_pretrained(tmp_path / kind, BEACON, **options)
    found = BeaconLM.from_pretrained(tmp_path / kind, BEACON, quantization_config=bits(count), **options)

    for ours, theirs in zip(found.model.layers, exact.model.layers, strict=True):
        for name in "qkvo":
            packed = getattr(ours.self_attn, f"{name}_proj")
            beacon = getattr(ours.self_attn, f"beacon_{name}_proj")
            assert packed.weight.dtype in (torch.uint8, torch.int8)
            assert beacon.weight.dtype == torch.bfloat16 and beacon.weight.device.type == "cuda"
            if kind == "backbone":  # from the values of the packed weight, but for one rounding to bf16
                values = dequantize_bnb_weight(packed.weight, getattr(packed, "state", None)).float()
                torch.testing.assert_close(beacon.weight.float(), values, rtol=1e-2, atol=1e-3)
                assert (beacon.bias is None) == (packed.bias is None)
            else:
                assert torch.equal(beacon.weight, getattr(theirs.self_attn, f"beacon_{name}_proj").weight)

    ids = tokens(1, 45).cuda()
    with torch.no_grad():
        assert likeness(found(ids, ratios=2).logits, exact(ids, ratios=2).logits) > least
        assert likeness(found.dense(ids).logits, exact.dense(ids).logits) > least
        first = found(ids[:, :8], ratios=2).logits
        torch.testing.assert_close(first, found.dense(ids[:, :8]).logits, rtol=2e-2, atol=2e-2)
    text = found.generate(ids, ratios=2, max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert text.shape == (1, 57) and torch.equal(text[:, :45], ids)
    found.train()(ids, labels=ids, ratios=2).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in found.beacon_parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("count", [8, 4])
def test_saving_on_bitsandbytes(count: int, tmp_path: Path) -> None:
    shape = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "initializer_range": 0.1}
    backbone = save_backbone(tmp_path / "backbone", **shape)
    options: dict[str, Any] = {"dtype": torch.bfloat16, "attn": "sdpa", "device_map": "cuda:0"}
    lm = trained(backbone, BEACON, quantization_config=bits(count), **options).eval()
    lm.save_pretrained(tmp_path / "beacons")
    lm.save_pretrained(tmp_path / "full", beacon_only=False)
    ids = tokens(1, 45).cuda()
    again = {
        "beacons": BeaconLM.from_pretrained(tmp_path / "beacons", quantization_config=bits(count), **options),
        "full": BeaconLM.from_pretrained(tmp_path / "full", **options),
        "auto": AutoModelForCausalLM.from_pretrained(tmp_path / "full", **options),
    }
    with torch.no_grad():
        for name, model in again.items():
            torch.testing.assert_close(model(ids, ratios=2).logits, lm(ids, ratios=2).logits, msg=name)
    plain = BeaconLM.from_pretrained(tmp_path / "beacons", **options)  # on the backbone as it is
    for ours, theirs in zip(plain.beacon_parameters(), lm.beacon_parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.gpu
def test_device_map_on_a_gpu(tmp_path: Path) -> None:
    backbone = save_backbone(tmp_path / "backbone")
    lm = trained(backbone, BEACON)
    lm.save_pretrained(tmp_path / "beacons")
    for device_map in ("cuda:0", {"": 0}, torch.device("cuda")):
        found = BeaconLM.from_pretrained(tmp_path / "beacons", device_map=device_map)
        assert {parameter.device.type for parameter in found.parameters()} == {"cuda"}
        for ours, theirs in zip(found.beacon_parameters(), lm.beacon_parameters(), strict=True):
            assert torch.equal(ours.cpu(), theirs)
    with pytest.raises(ValueError, match="one device for the whole model"):
        split = {"model.layers.1": "cpu", "": 0}
        BeaconLM.from_pretrained(tmp_path / "beacons", device_map=split)
