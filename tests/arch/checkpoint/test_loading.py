"""Saving and loading: plain backbones, whole models, beacons alone, published folders, and what must be refused."""

import copy
import pickle
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.checkpoint import load_beacons
from tests.arch.folders import BEACON, IDS, assert_same, edit_json, no_weights, save_backbone, trained, truncate
from tests.arch.tiny import ALL, DENSE, FAMILIES, OTHERS, attention_of, hf_config, tiny

WEIGHTS, SETTINGS = "beacon.safetensors", "beacon_config.json"


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A folder of a plain Qwen2."""
    return save_backbone(tmp_path / "backbone")


# Sources


@pytest.mark.parametrize("family", ALL)
def test_a_plain_backbone(family: str, tmp_path: Path) -> None:
    folder = save_backbone(tmp_path, family)
    lm = BeaconLM.from_pretrained(str(folder), BEACON, attn="sdpa")
    assert isinstance(lm, BeaconLM) and isinstance(lm, DENSE[family])
    assert lm.beacon == BEACON and lm.attn == "sdpa" and not lm.training
    dense = DENSE[family].from_pretrained(folder, attn_implementation=attention_of(lm))
    assert torch.equal(lm.dense(IDS).logits, dense(IDS).logits)
    assert torch.equal(lm(IDS[:, :8]).logits, dense(IDS[:, :8]).logits)
    for layer in lm.model.layers:
        attention = layer.self_attn
        queries = attention.qkv_proj.weight[:32] if family == "phi3" else attention.q_proj.weight
        assert torch.equal(attention.beacon_q_proj.weight, queries)
    assert torch.equal(lm.model.beacon_embed_tokens.weight[0], lm.model.embed_tokens.weight[2])
    assert {name for name, p in lm.named_parameters() if p.requires_grad} == {
        n for n in lm.state_dict() if "beacon" in n
    }


def test_default_settings(tmp_path: Path) -> None:
    lm = BeaconLM.from_pretrained(str(save_backbone(tmp_path, max_position_embeddings=4096)))
    assert lm.beacon == BeaconConfig()


def test_dtypes(backbone: Path) -> None:
    assert {p.dtype for p in BeaconLM.from_pretrained(str(backbone), BEACON).parameters()} == {torch.float32}
    half = BeaconLM.from_pretrained(str(backbone), BEACON, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    mixed = BeaconLM.from_pretrained(str(backbone), BEACON, dtype=torch.bfloat16, beacon_dtype=torch.float32)
    assert {p.dtype for p in mixed.beacon_parameters()} == {torch.float32}
    assert {p.dtype for n, p in mixed.named_parameters() if "beacon" not in n} == {torch.bfloat16}
    out = mixed.train()(IDS, labels=IDS, ratios=2)
    out.loss.backward()
    assert out.logits.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in mixed.beacon_parameters())
    assert torch.equal(out.logits, half.train()(IDS, ratios=2).logits)  # beacons start alike, and compute in bf16


def test_a_half_precision_folder_keeps_its_dtype(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path, dtype=torch.bfloat16)
    lm = BeaconLM.from_pretrained(str(folder), BEACON)
    assert {p.dtype for p in lm.parameters()} == {DENSE["qwen2"].from_pretrained(folder).dtype}


def test_fields_of_the_backbones_config(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path, max_position_embeddings=32)
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1e4}
    lm = BeaconLM.from_pretrained(str(folder), BEACON, rope_parameters=rope)
    assert lm.positions == 128 and lm.config.rope_parameters["rope_type"] == "yarn"


@pytest.mark.parametrize(("family", "tied"), [*product(FAMILIES, [False, True]), *product(OTHERS, [False])])
def test_a_whole_model(family: str, tied: bool, tmp_path: Path) -> None:
    lm = tiny(family, BEACON, tie_word_embeddings=tied)
    lm.save_pretrained(tmp_path, beacon_only=False)
    assert AutoConfig.from_pretrained(tmp_path).model_type == f"beacon_{family}"
    for load in (BeaconLM.from_pretrained, AutoModelForCausalLM.from_pretrained, type(lm).from_pretrained):
        again = load(str(tmp_path))
        assert_same(lm, again)
        assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied
        assert {n for n, p in again.named_parameters() if p.requires_grad} == {
            n for n in lm.state_dict() if "beacon" in n
        }


def test_a_whole_model_keeps_float32_beacons_on_a_half_precision_backbone(backbone: Path, tmp_path: Path) -> None:
    lm = trained(backbone, dtype=torch.bfloat16, beacon_dtype=torch.float32)
    lm.save_pretrained(tmp_path / "whole", beacon_only=False)
    assert_same(lm, BeaconLM.from_pretrained(str(tmp_path / "whole"), beacon_dtype=torch.float32))


def test_a_whole_model_in_shards(tmp_path: Path) -> None:
    lm = tiny("qwen2", BEACON)
    lm.save_pretrained(tmp_path, beacon_only=False, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_same(lm, BeaconLM.from_pretrained(str(tmp_path)))
    next(iter(sorted(tmp_path.glob("*.safetensors")))).unlink()
    with pytest.raises(ValueError, match=str(tmp_path)):
        BeaconLM.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("family", ALL)
def test_beacons_alone(family: str, tmp_path: Path) -> None:
    backbone = save_backbone(tmp_path / "backbone", family)
    lm = trained(backbone)
    lm.save_pretrained(tmp_path / "beacons")
    assert {file.name for file in (tmp_path / "beacons").iterdir()} == {WEIGHTS, SETTINGS, "config.json"}
    tensors = load_file(tmp_path / "beacons" / WEIGHTS)
    assert tensors.keys() == {name for name in lm.state_dict() if "beacon" in name}
    again = BeaconLM.from_pretrained(str(tmp_path / "beacons"))
    assert_same(lm, again)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == tensors.keys()


def test_beacons_alone_whose_backbone_has_moved(backbone: Path, tmp_path: Path) -> None:
    lm = trained(backbone)
    lm.save_pretrained(tmp_path / "beacons")
    moved = backbone.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="backbone="):
        BeaconLM.from_pretrained(str(tmp_path / "beacons"))
    assert_same(lm, BeaconLM.from_pretrained(str(tmp_path / "beacons"), backbone=str(moved)))


def test_beacons_alone_in_other_dtypes(backbone: Path, tmp_path: Path) -> None:
    lm = trained(backbone, dtype=torch.bfloat16, beacon_dtype=torch.float32)
    lm.save_pretrained(tmp_path / "beacons")
    assert {tensor.dtype for tensor in load_file(tmp_path / "beacons" / WEIGHTS).values()} == {torch.float32}
    options = {"dtype": torch.bfloat16, "beacon_dtype": torch.float32}
    assert_same(lm, BeaconLM.from_pretrained(str(tmp_path / "beacons"), **options))
    for dtype in (torch.float32, torch.bfloat16):  # the fingerprint holds in any dtype
        wide = BeaconLM.from_pretrained(str(tmp_path / "beacons"), dtype=dtype)
        assert {p.dtype for p in wide.parameters()} == {dtype}


def test_beacons_of_a_model_that_was_made_from_a_whole_one(tmp_path: Path) -> None:
    lm = tiny("qwen2", BEACON)
    lm.save_pretrained(tmp_path / "whole", beacon_only=False)
    finetuned = trained(tmp_path / "whole", None)
    finetuned.save_pretrained(tmp_path / "beacons")
    for dtype in (None, "float32", "auto"):
        assert_same(finetuned, BeaconLM.from_pretrained(str(tmp_path / "beacons"), beacon_dtype=dtype))


def test_settings_given_win_where_weights_allow(backbone: Path, tmp_path: Path) -> None:
    trained(backbone).save_pretrained(tmp_path / "beacons")
    other = BeaconConfig(window=16, ratios=4, ratio_policy="cycle", placement="append")
    assert BeaconLM.from_pretrained(str(tmp_path / "beacons"), other).beacon == other
    with pytest.raises(ValueError, match=r"params=\('k', 'q', 'v'\)"):
        BeaconLM.from_pretrained(
            str(tmp_path / "beacons"), BeaconConfig(window=8, ratios=2, params=("q", "k"), placement="interleave")
        )
    with pytest.raises(ValueError, match=r"lacks model\.layers\.0\.self_attn\.beacon_o_proj"):
        BeaconLM.from_pretrained(
            str(tmp_path / "beacons"),
            BeaconConfig(window=8, ratios=2, params=("q", "k", "v", "o"), placement="interleave"),
        )


# Refused


@pytest.mark.parametrize(
    "values",
    [{"hidden_size": 64, "head_dim": 16}, {"num_hidden_layers": 3}, {"num_key_value_heads": 4}, {"rope_theta": 1e6}],
    ids=str,
)
def test_beacons_of_another_shape_are_refused(values: dict[str, Any], backbone: Path, tmp_path: Path) -> None:
    trained(backbone).save_pretrained(tmp_path / "beacons")
    if "rope_theta" in values:
        values = {"rope_parameters": {"rope_type": "default", **values}}
    other = save_backbone(tmp_path / "other", **values)
    for allow in (False, True):
        with pytest.raises(ValueError, match="trained on a backbone with"):
            BeaconLM.from_pretrained(str(tmp_path / "beacons"), backbone=str(other), allow_other_backbone=allow)


def test_beacons_of_another_family_are_refused(backbone: Path, tmp_path: Path) -> None:
    trained(backbone).save_pretrained(tmp_path / "beacons")
    other = save_backbone(tmp_path / "other", "llama")
    with pytest.raises(ValueError, match="family='qwen2'; this one has 'llama'"):
        BeaconLM.from_pretrained(str(tmp_path / "beacons"), backbone=str(other))


def test_beacons_of_other_weights_are_refused_unless_allowed(backbone: Path, tmp_path: Path) -> None:
    lm = trained(backbone)
    lm.save_pretrained(tmp_path / "beacons")
    other = save_backbone(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"other weights.*allow_other_backbone=True"):
        BeaconLM.from_pretrained(str(tmp_path / "beacons"), backbone=str(other))
    again = BeaconLM.from_pretrained(str(tmp_path / "beacons"), backbone=str(other), allow_other_backbone=True)
    for ours, theirs in zip(lm.beacon_parameters(), again.beacon_parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "damage", [truncate, Path.unlink, lambda file: file.write_bytes(b"")], ids=["half", "gone", "empty"]
)
def test_a_damaged_weight_file(damage: Any, backbone: Path, tmp_path: Path) -> None:
    trained(backbone).save_pretrained(tmp_path / "beacons")
    damage(tmp_path / "beacons" / WEIGHTS)
    with pytest.raises(ValueError, match=WEIGHTS):
        BeaconLM.from_pretrained(str(tmp_path / "beacons"))
    damage(backbone / "model.safetensors")
    with pytest.raises(ValueError, match=str(backbone)):
        BeaconLM.from_pretrained(str(backbone), BEACON)


def test_damaged_settings(backbone: Path, tmp_path: Path) -> None:
    trained(backbone).save_pretrained(tmp_path / "beacons")
    truncate(tmp_path / "beacons" / SETTINGS)
    with pytest.raises(ValueError, match=f"{SETTINGS} is not valid JSON"):
        BeaconLM.from_pretrained(str(tmp_path / "beacons"))
    (tmp_path / "beacons" / SETTINGS).write_text("{}")
    with pytest.raises(ValueError, match=SETTINGS):
        BeaconLM.from_pretrained(str(tmp_path / "beacons"))
    truncate(backbone / "config.json")
    with pytest.raises(ValueError):
        BeaconLM.from_pretrained(str(backbone), BEACON)


def test_a_backbone_without_all_its_weights(backbone: Path) -> None:
    tensors = load_file(backbone / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, backbone / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of the backbone: model\.layers\.1\.mlp\.up_proj\.weight"):
        BeaconLM.from_pretrained(str(backbone), BEACON)


def test_no_such_checkpoint(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", "nobody/such-model", tmp_path / "missing.gguf"):
        with pytest.raises(ValueError, match=str(path)):
            BeaconLM.from_pretrained(str(path), BEACON)


def test_another_architecture_is_refused_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = GPT2Config(n_embd=32, n_layer=1, n_head=2)
    config.save_pretrained(tmp_path)
    no_weights(monkeypatch)
    message = r"model_type='gpt2' is not supported.*allowed: gemma2, gemma3_text, granite, llama, mistral, .*smollm3"
    with pytest.raises(ValueError, match=message):
        BeaconLM.from_pretrained(str(tmp_path), BEACON)
    with pytest.raises(ValueError, match=message):
        BeaconLM.from_config(config, BEACON)
    edit_json(tmp_path / "config.json", model_type="nonsense")
    with pytest.raises(ValueError, match="nonsense"):
        BeaconLM.from_pretrained(str(tmp_path), BEACON)


@pytest.mark.parametrize(
    ("beacon", "slots"),
    [
        (BeaconConfig(window=16, ratios=2, placement="interleave"), 24),
        (BeaconConfig(window=8, ratios=(1, 8), sink=1, overlap=4, placement="interleave"), 21),
    ],
)
def test_a_window_beyond_the_positions_is_refused_before_weights_are_read(
    beacon: BeaconConfig, slots: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = f"window={beacon.window} needs {slots} .*at most the backbone's {slots - 1}"
    config = hf_config("qwen2", max_position_embeddings=slots - 1)
    save_backbone(tmp_path, max_position_embeddings=slots - 1)
    with pytest.raises(ValueError, match=message):
        BeaconLM.from_config(config, beacon)
    no_weights(monkeypatch)
    with pytest.raises(ValueError, match=message):
        BeaconLM.from_pretrained(str(tmp_path), beacon)
    BeaconLM.from_config(hf_config("qwen2", max_position_embeddings=slots), beacon)


def test_attention_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attention_dropout=0\.1"):
        BeaconLM.from_config(hf_config("qwen2", attention_dropout=0.1), BEACON)


# State


def test_state_dict_round_trip() -> None:
    lm = tiny("qwen3", BEACON)
    again = BeaconLM.from_config(hf_config("qwen3"), BEACON)
    again.load_state_dict(lm.state_dict())
    assert_same(lm, again)


def test_copy_and_pickle() -> None:
    lm = tiny("qwen2", BEACON)
    for again in (copy.deepcopy(lm), pickle.loads(pickle.dumps(lm))):
        assert_same(lm, again)


def test_a_beacons_only_folder_can_be_copied_anywhere(backbone: Path, tmp_path: Path) -> None:
    lm = trained(backbone)
    lm.save_pretrained(tmp_path / "beacons")
    lm.save_pretrained(tmp_path / "beacons")  # once more over the same folder
    shutil.copytree(tmp_path / "beacons", tmp_path / "elsewhere" / "copy")
    assert_same(lm, BeaconLM.from_pretrained(str(tmp_path / "elsewhere" / "copy")))


def test_beacons_of_a_random_model_name_no_backbone(tmp_path: Path) -> None:
    lm = tiny("qwen2", BEACON)
    lm.save_pretrained(tmp_path / "beacons")
    with pytest.raises(ValueError, match="backbone="):
        BeaconLM.from_pretrained(str(tmp_path / "beacons"))


def test_rope_scaling_comes_back_with_the_beacons(backbone: Path, tmp_path: Path) -> None:
    theta = BeaconLM.from_pretrained(str(backbone), BEACON).config.rope_parameters["rope_theta"]
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "rope_theta": theta}
    lm = trained(backbone, rope_parameters=yarn)
    lm.save_pretrained(tmp_path / "beacons")
    again = BeaconLM.from_pretrained(str(tmp_path / "beacons"))
    assert again.config.rope_parameters["rope_type"] == "yarn"
    assert_same(lm, again)
    plain = BeaconLM.from_pretrained(
        str(tmp_path / "beacons"), rope_parameters={"rope_type": "default", "rope_theta": theta}
    )
    assert not torch.equal(plain.eval()(IDS, ratios=2).logits, lm.eval()(IDS, ratios=2).logits)


def test_caps_come_back_with_the_beacons(tmp_path: Path) -> None:
    """As they were changed for training, whatever the backbone's folder says."""
    caps = {"attn_logit_softcapping": None, "final_logit_softcapping": 5.0}
    lm = trained(save_backbone(tmp_path / "backbone", "gemma2"), **caps)
    lm.save_pretrained(tmp_path / "beacons")
    again = BeaconLM.from_pretrained(str(tmp_path / "beacons"))
    assert {name: getattr(again.config, name) for name in caps} == caps
    assert_same(lm, again)
    asked = BeaconLM.from_pretrained(str(tmp_path / "beacons"), attn_logit_softcapping=2.0)
    assert asked.config.attn_logit_softcapping == 2.0 and asked.config.final_logit_softcapping == 5.0
    assert not torch.equal(asked.eval()(IDS, ratios=2).logits, lm.eval()(IDS, ratios=2).logits)


def test_load_beacons_refuses_another_backbone(backbone: Path, tmp_path: Path) -> None:
    trained(backbone).save_pretrained(tmp_path / "beacons")
    other = BeaconLM.from_pretrained(str(save_backbone(tmp_path / "other", seed=9)), BEACON)
    with pytest.raises(ValueError, match="other weights"):
        load_beacons(other, tmp_path / "beacons")
    load_beacons(other, tmp_path / "beacons", allow_other_backbone=True)
    with pytest.raises(ValueError, match="holds no beacons"):
        load_beacons(other, backbone)
