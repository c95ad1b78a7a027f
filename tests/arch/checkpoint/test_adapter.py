"""LoRA adapters on the backbone, beside its beacons."""

import json
import shutil
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch import Teacher
from beacon_lit.arch.checkpoint import adapter, is_adapter, load_beacons
from beacon_lit.cli.convert import convert
from tests.arch.folders import BEACON, IDS, assert_same, no_weights, save_backbone, trained
from tests.arch.quantizer import RowsConfig
from tests.arch.tiny import DENSE, EXPERTS, FAMILIES, SLIDING, assert_close, gradients, tiny, tokens

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GREEDY = {"max_new_tokens": 11, "do_sample": False, "pad_token_id": 0}


def fill(lm: BeaconLM, seed: int = 3) -> BeaconLM:
    """Make the adapter one that does something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if is_adapter(name):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return lm


def adapted(lm: BeaconLM, **options: Any) -> BeaconLM:
    lm.add_adapter(LoraConfig(**{"r": 4, "target_modules": "all-linear", **options}))
    return lm


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    return save_backbone(tmp_path / "backbone")


@pytest.mark.parametrize(
    ("family", "dtype"),
    [*product(FAMILIES, [torch.float32, torch.bfloat16]), *product(("phi3", *SLIDING, *EXPERTS), [torch.float32])],
)
@torch.no_grad()
def test_a_fresh_adapter_changes_no_bit(family: str, dtype: torch.dtype) -> None:
    lm = tiny(family, BEACON, dtype=dtype).eval()
    for parameter in lm.beacon_parameters():
        parameter.data = parameter.data.float()  # as in training
    before = [lm(IDS, ratios=2).logits, lm.dense(IDS).logits, lm.generate(IDS, ratios=2, **GREEDY)]
    adapted(lm)
    after = [lm(IDS, ratios=2).logits, lm.dense(IDS).logits, lm.generate(IDS, ratios=2, **GREEDY)]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    dtypes = {parameter.dtype for name, parameter in lm.named_parameters() if is_adapter(name)}
    assert dtypes == {torch.float32} and lm.model.layers[0].self_attn.o_proj.weight.dtype == dtype


@pytest.mark.parametrize("target", PROJECTIONS)
def test_raw_tokens_go_through_every_adapted_projection(target: str) -> None:
    lm = tiny("llama", BEACON).eval()
    one_window, several = tokens(1, 6), tokens(1, 20)
    before = [lm(ids, ratios=2).logits for ids in (one_window, several)]
    fill(adapted(lm, target_modules=[target]))
    for ids, logits in zip((one_window, several), before, strict=True):
        assert (lm(ids, ratios=2).logits - logits).abs().max() > 0.1
    found = gradients(lm, lm(several, labels=several, ratios=2).loss)
    mine = [value for name, value in found.items() if is_adapter(name)]
    assert len(mine) == 2 * 2 and all(value.abs().max() > 1e-4 for value in mine)


@pytest.mark.parametrize("family", (*FAMILIES, "phi3", *SLIDING))
@torch.no_grad()
def test_an_adapted_model_equals_the_merged_one(family: str) -> None:
    lm = fill(adapted(tiny(family, BEACON).eval()))
    ids = tokens(2, 29)
    before, text = lm(ids, ratios=[2, 4, 2, 4]).logits, lm.generate(ids, ratios=2, **GREEDY)
    dense = lm.dense(ids).logits
    lm.merge_adapter()
    assert not any(is_adapter(name) or "base_layer" in name for name in lm.state_dict())
    assert_close(before, lm(ids, ratios=[2, 4, 2, 4]).logits, 1e-5)
    assert torch.equal(text, lm.generate(ids, ratios=2, **GREEDY))
    assert (lm.dense(ids).logits - dense).abs().max() > 0.1


def test_dense_is_the_backbone_without_the_adapter() -> None:
    plain, lm = tiny("qwen2", BEACON), fill(adapted(tiny("qwen2", BEACON), lora_dropout=0.5))
    flags = {name: parameter.requires_grad for name, parameter in lm.named_parameters()}
    out = lm.eval()(IDS, labels=IDS, ratios=2)
    expected = gradients(lm, out.loss, retain=True)
    assert torch.equal(lm.dense(IDS).logits, plain.dense(IDS).logits)
    assert torch.equal(lm.dense_token_loss(IDS, labels=IDS), plain.dense_token_loss(IDS, labels=IDS))
    assert {name: parameter.requires_grad for name, parameter in lm.named_parameters()} == flags
    again = gradients(lm, out.loss)  # through a graph from before
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    assert any(value.abs().max() > 0 for name, value in again.items() if is_adapter(name))
    assert not torch.equal(lm.dense(tokens(1, 6)).logits, lm(tokens(1, 6)).logits)


def test_a_teacher_is_without_the_adapter() -> None:
    plain, lm = tiny("qwen2", BEACON), fill(adapted(tiny("qwen2", BEACON), lora_dropout=0.5))
    ids = tokens(2, 29)
    torch.manual_seed(0)
    found = lm(ids, labels=ids, ratios=2, teacher=Teacher()).token_kl
    torch.manual_seed(0)
    student, teacher = (logits.log_softmax(-1) for logits in (lm(ids, ratios=2).logits, plain.dense(ids).logits))
    expected = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)[:, :-1]
    assert_close(found[:, 1:], expected, 1e-5)
    assert all(value.abs().max() > 0 for name, value in gradients(lm, found.sum()).items() if "lora_B" in name)


def test_what_is_trained_beside_an_adapter_stays_so() -> None:
    lm = tiny()
    beacons = {name for name, parameter in lm.named_parameters() if parameter.requires_grad}
    adapted(lm)
    now = {name for name, parameter in lm.named_parameters() if parameter.requires_grad}
    assert {name for name in now if is_adapter(name)} == now - beacons != set() and beacons <= now
    lm.freeze()
    assert {name for name, parameter in lm.named_parameters() if parameter.requires_grad} == beacons


@torch.no_grad()
def test_a_cache_of_another_adapter_is_refused() -> None:
    lm = adapted(tiny("llama", BEACON).eval(), layers_to_transform=[1], target_modules=["v_proj"])
    cache = lm.compress(tokens(1, 20), ratios=2)
    lm(tokens(1, 3), cache=cache)
    fill(lm)
    with pytest.raises(ValueError, match=r"made by another model.*lora_"):
        lm(tokens(1, 3), cache=cache)


@pytest.mark.parametrize(
    "options",
    [
        {"lora_dropout": 0.5},
        {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"k_proj": 3}},
        {"target_modules": r".*\.1\..*\.(q|down)_proj", "init_lora_weights": "gaussian"},
        {"target_modules": ["v_proj"], "layers_to_transform": [1]},
        {"use_dora": True},
    ],
)
def test_a_saved_adapter_comes_back_with_its_beacons(options: dict[str, Any], backbone: Path, tmp_path: Path) -> None:
    lm = fill(adapted(trained(backbone), **options)).eval()
    lm.save_pretrained(tmp_path / "saved")
    assert {file.name for file in (tmp_path / "saved").iterdir()} == {
        "adapter", "beacon.safetensors", "beacon_config.json", "config.json",
    }  # fmt: skip
    assert not any(is_adapter(name) for name in load_file(tmp_path / "saved" / "beacon.safetensors"))
    for read in (BeaconLM.from_pretrained, AutoModelForCausalLM.from_pretrained):
        again = read(str(tmp_path / "saved"))
        with torch.no_grad():  # no dropout, before anyone calls eval()
            assert torch.equal(again(IDS, ratios=2).logits, lm(IDS, ratios=2).logits)
        assert_same(again, lm)
        assert torch.equal(again.generate(IDS, ratios=2, **GREEDY), lm.generate(IDS, ratios=2, **GREEDY))
        assert not any(parameter.requires_grad for name, parameter in again.named_parameters() if is_adapter(name))
        assert adapter.settings(again) == adapter.settings(lm)


def test_peft_reads_the_adapter_alone(backbone: Path, tmp_path: Path) -> None:
    """Up to one window, the model is the backbone as peft adapts it, bit for bit."""
    lm = fill(adapted(trained(backbone))).eval()
    lm.save_pretrained(tmp_path / "saved")
    plain = DENSE["qwen2"].from_pretrained(backbone).eval()
    ids = tokens(1, BEACON.window)
    with torch.no_grad():
        unadapted = plain(ids).logits
        theirs = PeftModel.from_pretrained(plain, tmp_path / "saved" / "adapter").eval()(ids).logits
        assert torch.equal(lm(ids, unfinished="raw").logits, theirs)
    assert (theirs - unadapted).abs().max() > 0.1
    named = json.loads((tmp_path / "saved" / "adapter" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(backbone)


@pytest.mark.parametrize(("asked", "dtype"), [(None, torch.bfloat16), ("float32", torch.float32)])
def test_an_adapter_has_the_dtype_of_the_beacons(
    asked: str | None, dtype: torch.dtype, backbone: Path, tmp_path: Path
) -> None:
    fill(adapted(trained(backbone))).save_pretrained(tmp_path / "saved")
    lm = BeaconLM.from_pretrained(str(tmp_path / "saved"), dtype="bfloat16", beacon_dtype=asked)
    assert {parameter.dtype for name, parameter in lm.named_parameters() if is_adapter(name)} == {dtype}
    assert lm.model.norm.weight.dtype == torch.bfloat16


def test_an_adapter_on_a_packed_backbone(backbone: Path, tmp_path: Path) -> None:
    lm = fill(adapted(trained(backbone))).eval()
    lm.save_pretrained(tmp_path / "saved")
    packed = BeaconLM.from_pretrained(str(tmp_path / "saved"), quantization_config=RowsConfig()).eval()
    with torch.no_grad():
        expected, found = lm(IDS, ratios=2).logits, packed(IDS, ratios=2).logits
        assert (found - expected).abs().max() < 0.1 * (lm.dense(IDS).logits - expected).abs().max()
    with pytest.raises(ValueError, match="quantization_config='rows' is not allowed for merging"):
        packed.merge_adapter()


def test_reading_without_peft_is_an_error(backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted(trained(backbone)).save_pretrained(tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "peft", None)
    no_weights(monkeypatch)
    with pytest.raises(ValueError, match=r"saved needs the package peft: pip install 'beacon_lit\[lora\]'"):
        BeaconLM.from_pretrained(str(tmp_path / "saved"))


def test_an_adapter_is_never_dropped(backbone: Path, tmp_path: Path) -> None:
    fill(adapted(trained(backbone))).save_pretrained(tmp_path / "saved")
    shutil.move(tmp_path / "saved" / "adapter", tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"cannot load .*adapter"):
        BeaconLM.from_pretrained(str(tmp_path / "saved"))


def test_beacons_and_adapters_are_put_on_a_model(backbone: Path, tmp_path: Path) -> None:
    lm = fill(adapted(trained(backbone)))
    lm.save_pretrained(tmp_path / "saved")
    fresh = BeaconLM.from_pretrained(str(backbone), BEACON)
    load_beacons(fresh, tmp_path / "saved")
    assert_same(fresh, lm)
    same = adapted(BeaconLM.from_pretrained(str(backbone), BEACON))
    load_beacons(same, tmp_path / "saved")
    assert_same(same, lm)
    other = adapted(BeaconLM.from_pretrained(str(backbone), BEACON), lora_alpha=5)
    with pytest.raises(ValueError, match=r"lora_alpha=8 of the adapter of .*saved is not allowed; allowed: .* 5"):
        load_beacons(other, tmp_path / "saved")
    trained(backbone).save_pretrained(tmp_path / "beacons")
    before = {name: value.clone() for name, value in same.state_dict().items() if is_adapter(name)}
    load_beacons(same, tmp_path / "beacons")
    assert all(torch.equal(same.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("to", ["full", "published", "beacons"])
def test_converting_merges_the_adapter_or_keeps_it(to: str, backbone: Path, tmp_path: Path) -> None:
    lm = fill(adapted(trained(backbone, replace(BEACON, overlap=0)))).eval()
    lm.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="merge_adapter"):
        lm.save_pretrained(tmp_path / "x", beacon_only=False)
    with pytest.raises(ValueError, match="merge_adapter"):
        lm.save_published(tmp_path / "x")
    convert(tmp_path / "saved", tmp_path / "new", to)
    again = BeaconLM.from_pretrained(str(tmp_path / "new")).eval()
    with torch.no_grad():
        assert_close(again(IDS, ratios=2).logits, lm(IDS, ratios=2).logits, 1e-5)
    assert (adapter.settings(again) is None) == (to != "beacons")


def test_a_merged_backbone_is_no_longer_that_of_its_name(backbone: Path, tmp_path: Path) -> None:
    lm = fill(adapted(trained(backbone), target_modules=["up_proj"]))  # of which the fingerprint knows nothing
    lm.merge_adapter()
    lm.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="does not say which backbone"):
        BeaconLM.from_pretrained(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="no adapter"):
        lm.merge_adapter()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["beacon_q_proj"]}, r"beacon_q_proj; allowed: .*q_proj, k_proj.*down_proj\)"),
        ({"target_modules": r".*q_proj"}, "beacon_q_proj; allowed"),
        ({"target_modules": ["lm_head", "q_proj"]}, "target_modules names lm_head"),
        ({"target_modules": ["embed_tokens"]}, "target_modules names model.embed_tokens"),
        ({"target_modules": ["c_attn"]}, "c_attn"),
        ({"bias": "all"}, "bias='all' is not allowed"),
        ({"modules_to_save": ["norm"]}, "modules_to_save="),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' is not allowed"),
        ({"layer_replication": [(0, 2)]}, "layer_replication="),
    ],
)
def test_what_a_saved_adapter_could_not_bring_back_is_refused(options: dict[str, Any], message: str) -> None:
    lm = tiny("llama", BeaconConfig(window=8, ratios=2, placement="interleave"))
    before = {name: (value.clone(), value.requires_grad) for name, value in lm.named_parameters()}
    with pytest.raises(ValueError, match=message):
        adapted(lm, **options)
    after = dict(lm.named_parameters())
    assert before.keys() == after.keys() and adapter.settings(lm) is None
    for name, (value, requires_grad) in before.items():
        assert torch.equal(after[name], value) and after[name].requires_grad == requires_grad


def test_a_second_adapter_is_refused() -> None:
    with pytest.raises(ValueError, match="an adapter already"):
        adapted(adapted(tiny()))


def test_an_adapter_on_a_spread_model_is_refused() -> None:
    lm = tiny()
    lm.model.norm.weight.ds_id = 0  # as ZeRO marks what it has spread
    with pytest.raises(ValueError, match="spread over ranks; allowed: DDP"):
        adapted(lm)
