"""An adapter's folder is its base model with the adapter merged, as peft merges it, or is refused; never ignored."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.checkpoint import load_tokenizer
from beacon_lit.tiny import byte_tokenizer
from tests.arch.checkpoint.test_gguf import tiny_model, write_gguf
from tests.arch.checkpoint.test_streaming import Parts
from tests.arch.folders import IDS, assert_same, edit_json, save_backbone
from tests.arch.quantizer import RowsConfig

peft = pytest.importorskip("peft")  # the `lora` extra

BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, placement="interleave")


def save_adapter(base: Path, folder: Path, config: Any = None) -> Any:
    """Save an adapter with large weights, and return the base model with the adapter merged by peft."""
    config = config or peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval() if config.is_prompt_learning else model.merge_and_unload().eval()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    byte_tokenizer().save_pretrained(tmp_path / "base")
    return save_backbone(tmp_path / "base")


@pytest.mark.parametrize(
    "config",
    [
        None,
        peft.LoraConfig(r=2, target_modules=["k_proj", "o_proj"], use_dora=True, task_type="CAUSAL_LM"),
        peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"),
        peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
    ],
    ids=["lora", "dora", "head", "ia3"],
)  # fmt: skip
def test_the_backbone_is_the_merged_model(config: Any, base: Path, tmp_path: Path) -> None:
    merged = save_adapter(base, tmp_path / "adapter", config)
    lm = BeaconLM.from_pretrained(tmp_path / "adapter", BEACON)
    plain = BeaconLM.from_pretrained(base, BEACON)
    state = lm.state_dict()
    assert state.keys() == plain.state_dict().keys()  # nothing of peft is left
    assert all(torch.equal(value, state[name]) for name, value in merged.state_dict().items())
    with torch.no_grad():
        assert torch.equal(lm.dense(IDS).logits, merged(IDS).logits)
        assert (lm.dense(IDS).logits - plain.dense(IDS).logits).abs().max() > 0.1
    attention = lm.model.layers[0].self_attn
    assert torch.equal(attention.beacon_q_proj.weight, attention.q_proj.weight)  # beacons start from what was merged
    assert {name for name, p in lm.named_parameters() if p.requires_grad} == {n for n in state if "beacon" in n}


def test_beacons_on_an_adapter_name_the_adapter(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "adapter")
    lm = BeaconLM.from_pretrained(tmp_path / "adapter", BEACON)
    lm.save_pretrained(tmp_path / "beacons")
    assert_same(lm, BeaconLM.from_pretrained(tmp_path / "beacons"))
    with pytest.raises(ValueError, match="other weights"):
        BeaconLM.from_pretrained(tmp_path / "beacons", backbone=str(base))


def test_the_tokenizer_is_the_adapters_or_the_bases(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "adapter")
    assert len(load_tokenizer(tmp_path / "adapter")) == len(load_tokenizer(base))
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<new>", "<newer>"])
    tokenizer.save_pretrained(tmp_path / "adapter")
    assert len(load_tokenizer(tmp_path / "adapter")) == len(tokenizer)


def test_a_base_that_has_moved(base: Path, tmp_path: Path) -> None:
    merged = save_adapter(base, tmp_path / "adapter")
    moved = base.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"no such file or folder.*\(the backbone of .*adapter; .*: backbone=\.\.\."):
        BeaconLM.from_pretrained(tmp_path / "adapter", BEACON)
    lm = BeaconLM.from_pretrained(tmp_path / "adapter", BEACON, backbone=str(moved))
    with torch.no_grad():
        assert torch.equal(lm.dense(IDS).logits, merged(IDS).logits)
    edit_json(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(ValueError, match=r"adapter does not say which backbone it is for; name it: backbone=\.\.\."):
        BeaconLM.from_pretrained(tmp_path / "adapter", BEACON)


def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "adapter")
    wider = save_backbone(tmp_path / "wider", hidden_size=64)
    with pytest.raises(
        ValueError, match=r"does not fit the backbone \(size mismatch for [^\n]*\); allowed: the base model"
    ):
        BeaconLM.from_pretrained(tmp_path / "adapter", BEACON, backbone=str(wider))
    deeper = save_backbone(tmp_path / "deeper", num_hidden_layers=3, layer_types=None)
    with pytest.raises(
        ValueError, match=r"does not fit the backbone \(.*layers\.2.*\); allowed: the base model of the ad"
    ):
        BeaconLM.from_pretrained(tmp_path / "adapter", BEACON, backbone=str(deeper))


def test_weights_that_would_be_ignored_are_refused(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": torch.ones(4, 32)}, file)
    with pytest.raises(ValueError, match=r"does not fit the backbone \(.*layers\.7"):
        BeaconLM.from_pretrained(tmp_path / "adapter", BEACON)
    file.unlink()
    with pytest.raises(ValueError, match=r"holds adapter_config\.json, but no adapter_model\.safetensors"):
        BeaconLM.from_pretrained(tmp_path / "adapter", BEACON)


def test_what_cannot_be_merged_is_refused(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "prefix", peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match=r"is a PROMPT_TUNING adapter, .*; allowed: adapters that can be merged"):
        BeaconLM.from_pretrained(tmp_path / "prefix", BEACON)
    save_adapter(base, tmp_path / "adapter")
    with pytest.raises(
        ValueError, match=r"is an adapter, .*: BeaconLM\.from_pretrained\(ADAPTER\)\.save_backbone\(FOLDER"
    ):
        BeaconLM.from_pretrained(tmp_path / "adapter", BEACON, shard=Parts())
    with pytest.raises(ValueError, match="quantization_config='rows' is not allowed for the adapter in "):
        BeaconLM.from_pretrained(tmp_path / "adapter", BEACON, quantization_config=RowsConfig())
    (tmp_path / "adapter" / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config\.json is not valid JSON"):
        BeaconLM.from_pretrained(tmp_path / "adapter", BEACON)


def test_an_adapter_of_a_gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEACON_CACHE", str(tmp_path / "cache"))
    model = tiny_model("qwen2")
    model.save_pretrained(tmp_path / "plain")
    merged = save_adapter(tmp_path / "plain", tmp_path / "adapter")
    path = write_gguf(tmp_path / "tiny.gguf", model, "qwen2")
    lm = BeaconLM.from_pretrained(tmp_path / "adapter", BEACON, backbone=str(path))
    assert all(torch.equal(value, lm.state_dict()[name]) for name, value in merged.state_dict().items())
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
