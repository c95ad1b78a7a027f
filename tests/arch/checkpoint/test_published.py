"""The layout of the published checkpoints: read from disk it gives the paper's numbers, written it comes back exact."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from safetensors.torch import load_file, save_file

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.checkpoint import save_published, stored_settings
from tests.arch.cases import beacons
from tests.arch.folders import BEACON, assert_same, edit_json, save_backbone, trained
from tests.arch.parity import Case, names
from tests.arch.tiny import OTHERS, examples, tiny

SETTINGS = BeaconConfig(window=8, ratios=(2, 4), sink=2, placement="interleave")

PUBLISHED = {
    "beacon_window": 8, "beacon_stride": 8, "beacon_ratio": [2, 4], "beacon_ratio_mix": "step-random",
    "beacon_param": ["q", "k", "v"], "beacon_sink_size": 2, "beacon_pos": "interleave", "beacon_attn": "full-coverage",
    "beacon_attend_prev": True, "beacon_embed_init": "eos",
}  # fmt: skip


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, BeaconLM]:
    """A folder as the paper's code writes it: a plain architecture, `beacon_*` fields, `beacon_*` tensors."""
    lm = tiny("qwen2", BeaconConfig(window=8, ratios=(2, 4), sink=2, placement="interleave"))
    folder = tmp_path / "published"
    save_backbone(folder)
    edit_json(folder / "config.json", **PUBLISHED, auto_map={"AutoModelForCausalLM": "modeling_qwen2.Qwen2ForCausalLM"})
    save_file(lm.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder, lm


def test_a_published_checkpoint(published: tuple[Path, BeaconLM], tmp_path: Path) -> None:
    folder, lm = published
    again = BeaconLM.from_pretrained(str(folder))
    assert_same(lm, again)
    again.save_pretrained(tmp_path / "whole", beacon_only=False)
    assert_same(lm, BeaconLM.from_pretrained(str(tmp_path / "whole")))
    again.save_pretrained(tmp_path / "beacons")
    assert_same(lm, BeaconLM.from_pretrained(str(tmp_path / "beacons")))


def test_a_published_checkpoint_with_other_settings(published: tuple[Path, BeaconLM]) -> None:
    folder, _ = published
    assert BeaconLM.from_pretrained(str(folder), BEACON).beacon == BEACON
    with pytest.raises(ValueError, match="beacon_v_proj"):
        BeaconLM.from_pretrained(
            str(folder), BeaconConfig(window=8, ratios=2, params=("q", "k"), placement="interleave")
        )
    with pytest.raises(ValueError, match="beacon_o_proj"):
        BeaconLM.from_pretrained(
            str(folder), BeaconConfig(window=8, ratios=2, params=("q", "k", "v", "o"), placement="interleave")
        )


def test_a_published_checkpoint_without_all_its_beacons(published: tuple[Path, BeaconLM]) -> None:
    folder, lm = published
    lost = "model.layers.1.self_attn.beacon_k_proj.weight"
    rest = {name: value for name, value in lm.state_dict().items() if name != lost}
    save_file(rest, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks model\.layers\.1\.self_attn\.beacon_k_proj\.weight"):
        BeaconLM.from_pretrained(str(folder))


# The paper's numbers, from a folder


@pytest.mark.parametrize("name", names("eval.logits"))
@torch.no_grad()
def test_scores_from_a_folder(name: str, tmp_path: Path) -> None:
    case = Case(name)
    for model_type in (None, f"beacon_{case.settings['arch']}"):
        lm = BeaconLM.from_pretrained(case.write(tmp_path / str(model_type), model_type))
        assert lm.beacon == case.model.beacon
        logits = lm(case.input_ids, unfinished="beacons").logits
        torch.testing.assert_close(logits, case.get("eval.logits"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", names("generate.ids"))
def test_text_from_a_folder(name: str, tmp_path: Path) -> None:
    case = Case(name)
    expected = case.get("generate.ids")
    options = {"max_new_tokens": expected.shape[1] - case.input_ids.shape[1], "do_sample": False, "eos_token_id": None}
    lm = BeaconLM.from_pretrained(case.write(tmp_path / "published"))
    assert torch.equal(lm.generate(case.input_ids, unfinished="beacons", **options), expected)


@torch.no_grad()
def test_other_beacons_give_other_scores(tmp_path: Path) -> None:
    case = Case("qwen2-r4")
    folder = case.write(tmp_path / "published")
    key = "model.layers.0.self_attn.beacon_k_proj.weight"
    changed = {**case.weights, key: case.weights[key].flip(0).contiguous()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    logits = BeaconLM.from_pretrained(folder)(case.input_ids, unfinished="beacons").logits
    assert (logits - case.get("eval.logits")).abs().max() > 1e-2


# Written


@pytest.mark.parametrize("plain_type", [False, True])
@pytest.mark.parametrize("name", names("eval.logits"))
def test_published_to_ours_and_back(name: str, plain_type: bool, tmp_path: Path) -> None:
    case = Case(name)
    published = case.write(tmp_path / "published")
    lm = BeaconLM.from_pretrained(published)
    save_published(lm, tmp_path / "again", plain_type=plain_type)
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    first = json.loads((published / "config.json").read_text())
    changed = set() if plain_type else {"model_type", "architectures"}
    assert {name for name in first if again.get(name) != first[name]} == changed | {"auto_map"}
    tensors = load_file(tmp_path / "again" / "model.safetensors")
    assert tensors.keys() == case.weights.keys()
    assert all(torch.equal(tensors[name], value) for name, value in case.weights.items())
    assert_same(lm, BeaconLM.from_pretrained(tmp_path / "again"))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_ours_to_published_and_back(family: str, tied: bool, tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    folder = save_backbone(tmp_path / "backbone", family, rope_parameters=rope, tie_word_embeddings=tied)
    lm = trained(folder, SETTINGS)
    lm.save_pretrained(tmp_path / "beacons")
    save_published(BeaconLM.from_pretrained(tmp_path / "beacons"), tmp_path / "published")
    again = BeaconLM.from_pretrained(tmp_path / "published")
    assert_same(lm, again)
    again.save_pretrained(tmp_path / "back")
    assert_same(lm, BeaconLM.from_pretrained(tmp_path / "back"))
    ours, theirs = (load_file(tmp_path / name / "beacon.safetensors") for name in ("beacons", "back"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


def test_names_that_older_transformers_read(tmp_path: Path) -> None:
    """The paper's code takes RoPE's base from `rope_theta`: without that field it would take another one, silently."""
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    lm = tiny("llama", SETTINGS, rope_parameters=rope, tie_word_embeddings=True)
    save_published(lm.bfloat16(), tmp_path, plain_type=True)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rope_theta"] == 5e5 and config["rope_scaling"] == {"type": "linear", "factor": 2.0}
    assert config["torch_dtype"] == "bfloat16" and config["tie_word_embeddings"] is True
    assert config["model_type"] == "llama" and config["architectures"] == ["LlamaForCausalLM"]
    assert not config.keys() & {"rope_parameters", "dtype", "beacon", "_name_or_path"}
    assert BeaconLM.from_pretrained(tmp_path).config.rope_parameters["factor"] == 2.0


def test_a_published_folder_in_shards(tmp_path: Path) -> None:
    lm = tiny("qwen2", SETTINGS)
    save_published(lm, tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_same(lm, BeaconLM.from_pretrained(tmp_path))


def test_float32_beacons_on_a_half_precision_backbone_keep_their_bits(tmp_path: Path) -> None:
    lm = trained(save_backbone(tmp_path / "backbone"), SETTINGS, dtype="bfloat16", beacon_dtype="float32")
    save_published(lm, tmp_path / "published", max_shard_size="20KB")
    assert_same(lm, BeaconLM.from_pretrained(tmp_path / "published", beacon_dtype="auto"))
    rounded = BeaconLM.from_pretrained(tmp_path / "published")
    assert {parameter.dtype for parameter in rounded.parameters()} == {torch.bfloat16}


# Settings


@examples(100)
@given(config=beacons())
def test_settings_come_back_or_are_refused(config: BeaconConfig) -> None:
    if config.overlap:
        with pytest.raises(
            ValueError, match=rf"overlap={config.overlap} is not allowed; allowed: 0 in the published layout"
        ):
            config.to_published()
    else:
        published = json.loads(json.dumps(config.to_published()))
        assert all(name.startswith("beacon_") for name in published)
        assert BeaconConfig.from_published(published) == config


@pytest.mark.parametrize("policy", ["random", "random-per-sequence", "cycle", "adapt-1024"])
def test_policies_come_back(policy: str) -> None:
    config = BeaconConfig(ratio_policy=policy, embed_init="bos", sink=1, placement="interleave")
    assert BeaconConfig.from_published(config.to_published()) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"overlap": 3}, "overlap=3 is not allowed; allowed: 0"),
        ({"eval_ratio": 2}, "eval_ratio=2 is not allowed; allowed: None"),
        ({"unfinished": "beacons"}, "unfinished='beacons' is not allowed; allowed: 'raw'"),
    ],
)
def test_settings_without_a_field_are_refused_before_anything_is_written(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    lm = tiny("qwen2", BeaconConfig(**{"window": 8, "ratios": (2, 4), "placement": "interleave"} | values))
    with pytest.raises(ValueError, match=message):
        save_published(lm, tmp_path / "published")
    assert not (tmp_path / "published").exists()


@pytest.mark.parametrize(
    ("family", "values", "message"),
    [
        *((family, {}, f"model_type='{family}' .*allowed: llama, mistral, qwen2") for family in ("qwen3", *OTHERS)),
        ("qwen2", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}, "rope_type='yarn'"),
        ("mistral", {"head_dim": 16}, "head_dim=16 .*allowed: 8"),
    ],
)
def test_models_that_the_papers_code_does_not_have_are_refused(
    family: str, values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        save_published(tiny(family, SETTINGS, **values), tmp_path / "published")
    assert not (tmp_path / "published").exists()


def test_a_folder_of_beacons_alone_is_not_written_over(tmp_path: Path) -> None:
    lm = tiny("qwen2", SETTINGS)
    lm.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds beacons alone"):
        save_published(lm, tmp_path)


def test_settings_are_known_without_reading_weights(published: tuple[Path, BeaconLM], tmp_path: Path) -> None:
    folder, lm = published
    (folder / "model.safetensors").unlink()
    assert stored_settings(str(folder)) == lm.beacon
    assert stored_settings(str(save_backbone(tmp_path / "backbone"))) is None
