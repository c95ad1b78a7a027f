"""Architectures without a file of their own: what works, and the sentence that says why another does not."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.checkpoint.self_check import check_itself
from beacon_lit.arch.nn.attention import BeaconAttention
from beacon_lit.arch.nn.logits import LogitScale
from beacon_lit.arch.plan.kinds import Memory, Sliding
from beacon_lit.tuning import Full
from tests.arch.test_one_pass import RATIOS, compare
from tests.arch.tiny import OWN, SIZES, assert_close, attention_of, tokens

BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, overlap=3, eval_ratio=2)
MODELS = Path(__file__).parents[3] / "docs" / "models.md"
GREEDY: dict[str, Any] = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None}
# Rotated in part by neighbouring pairs, parallel sublayers and scaled logits, norms after sublayers, experts, layers of
# two kinds, multipliers, caps and scaled embeddings.
WORKING = ("glm", "cohere", "flex_olmo", "ernie4_5", "olmo3", "hyperclovax", "vaultgemma")
ALSO = (
    "apertus", "arcee", "aria_text", "cwm", "dots1", "ernie4_5_moe", "exaone4", "gemma", "glm4", "glm4_moe", "helium",
    "hy_v3", "jais2", "mellum", "minimax_m2", "ministral", "olmo", "olmoe", "phimoe", "qwen2_moe",
    "seed_oss", "solar_open", "starcoder2",
)  # fmt: skip
NEWER = ("internlm3", "iquestcoder")  # transformers 5.17 does not have them
EXPERTS = {
    **OWN["qwen3_moe"], "num_local_experts": 4, "moe_num_experts": 4, "n_routed_experts": 4, "moe_k": 2, "moe_topk": 2,
    "n_group": 1, "topk_group": 1,
}  # fmt: skip
WITH_EXPERTS = (
    "aria_text", "dots1", "ernie4_5_moe", "flex_olmo", "glm4_moe", "hy_v3", "mellum", "minimax_m2", "olmoe", "phimoe",
    "qwen2_moe", "solar_open",
)  # fmt: skip
KINDS = {"num_hidden_layers": 4, "sliding_window": 5}  # three layers with a sliding window, one without
SETTINGS: dict[str, dict[str, Any]] = {
    "olmo3": KINDS,
    "cwm": KINDS,
    "cohere2": KINDS,
    "dots1": {"n_shared_experts": 1},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 2},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "hyperclovax": {"embedding_multiplier": 3.0, "logits_scaling": 0.5, "attention_multiplier": 0.2},
    "phimoe": {"router_jitter_noise": 0.0},
    "vaultgemma": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "sliding_window": 5},
    "seed_oss": {"attention_dropout": 0.0, "residual_dropout": 0.0},
}


def config(kind: str, **values: Any) -> PretrainedConfig:
    own = {**(EXPERTS if kind in WITH_EXPERTS else {}), **SETTINGS.get(kind, {})}
    return CONFIG_MAPPING[kind](**{**SIZES, **own, **values})


def loaded(kind: str, folder: Path, beacon: BeaconConfig = BEACON, **options: Any) -> BeaconLM:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config(kind)).save_pretrained(folder)
    return BeaconLM.from_pretrained(str(folder), beacon, **options)


@pytest.mark.parametrize("kind", WORKING)
@torch.no_grad()
def test_it_works_as_a_listed_one_does(kind: str, tmp_path: Path) -> None:
    lm, ids = loaded(kind, tmp_path / "backbone"), tokens(2, 29)
    attention = attention_of(lm)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "backbone", attn_implementation=attention).eval()
    assert not lm.listed and isinstance(lm, type(plain)) and not lm.training
    assert torch.equal(lm.dense(ids).logits, plain(ids).logits)
    assert torch.equal(lm(ids[:1, :8]).logits, plain(ids[:1, :8]).logits)
    assert_close(lm(ids, ratios=0).logits, lm.dense(ids).logits, 1e-5)
    whole = lm(ids, use_cache=True)
    for row in (0, 1):
        assert_close(lm(ids[row : row + 1]).logits[0], whole.logits[row], 1e-5)
    again = lm.compress(ids[:, 11:], cache=lm.compress(ids[:, :11]))
    assert [state.slots for state in again.rows] == [state.slots for state in whole.cache.rows]
    found = lm.generate(ids[:1], **GREEDY)
    for end in range(29, 38):
        assert int(lm(found[:, :end]).logits[0, -1].argmax()) == int(found[0, end])
    for parameter in lm.beacon_parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    lm.save_pretrained(tmp_path / "beacons")
    assert torch.equal(BeaconLM.from_pretrained(str(tmp_path / "beacons"))(ids).logits, lm(ids).logits)


@pytest.mark.parametrize("kind", [*ALSO, *(kind for kind in NEWER if kind in CONFIG_MAPPING)])
@torch.no_grad()
def test_it_works(kind: str) -> None:
    """What docs/models.md lists. The check of itself is part of `from_config`."""
    torch.manual_seed(0)
    lm, ids = BeaconLM.from_config(config(kind), BEACON).eval(), tokens(1, 29)
    assert not lm.listed
    assert_close(lm(ids, ratios=0).logits, lm.dense(ids).logits, 1e-5)
    assert torch.equal(lm(ids[:, :8]).logits, lm.dense(ids[:, :8]).logits)
    cut = lm.compress(ids[:, 11:], cache=lm.compress(ids[:, :11]))
    more = tokens(1, 3, seed=1)
    assert_close(lm(more, cache=cut).logits, lm(more, cache=lm.compress(ids)).logits, 1e-4)


def test_a_list_in_the_documentation() -> None:
    (listed,) = re.findall(r"tested with random weights: (.*)\.\n", MODELS.read_text())
    assert re.findall(r"`(\w+)`", listed) == sorted((*WORKING, *ALSO, *NEWER))


def test_layers_of_two_kinds(tmp_path: Path) -> None:
    lm = loaded("cwm", tmp_path, BeaconConfig(window=8, ratios=(2, 4), params=("q", "k", "v", "o")))
    assert lm.groups.kinds == (Memory(), Sliding(5)) and lm.groups.with_memory == (0,)
    compare(lm.double().train().requires_grad_(True), tokens(1, 53), RATIOS, "raw")
    with pytest.raises(ValueError, match="sliding windows are not allowed in the cache of a backbone that is not"):
        lm.eval().compress(tokens(1, 29), ratios=2).to_transformers()


def test_the_check_notices_another_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = BeaconLM.from_config(config("olmo3", sliding_window=500), BEACON)
    check_itself(lm)
    assert lm.config.sliding_window == 500 and lm.groups.kinds == (Memory(), Sliding(500))
    right = type(lm).layer_kinds
    wider = classmethod(lambda cls, config: [Sliding(k.reach + 1) if k.reach else k for k in right(config)])
    monkeypatch.setattr(type(lm), "layer_kinds", wider)
    with pytest.raises(ValueError, match="one window of random tokens gave other hidden states"):
        check_itself(lm)


@pytest.mark.parametrize("name", ["attn_logit_softcapping", "final_logit_softcapping"])
def test_the_check_notices_caps_that_random_tokens_do_not_reach(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For which it sets them lower."""
    caps = dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), 200.0)
    lm = BeaconLM.from_config(config("vaultgemma", **caps), BEACON).bfloat16()
    check_itself(lm)
    assert {name: getattr(lm.config, name) for name in caps} == caps and lm.lm_head.scale == LogitScale(cap=200.0)
    assert {layer.self_attn.cap for layer in lm.model.layers} == {200.0}
    if name == "attn_logit_softcapping":
        monkeypatch.setattr(BeaconAttention, "cap", None)
    else:
        monkeypatch.setattr(type(lm), "head_scale", LogitScale())
    what = "hidden states" if name == "attn_logit_softcapping" else "logits"
    with pytest.raises(ValueError, match=rf"'vaultgemma' is not supported: .* gave other {what} .*, with {name}=1\.0"):
        check_itself(lm)


def test_the_check_notices_an_embedding_that_does_more() -> None:
    lm = BeaconLM.from_config(config("gemma"), BEACON)
    lm.model.embed_tokens.register_forward_hook(lambda module, inputs, found: found + 1)
    with pytest.raises(ValueError, match=r"its embedding \(GemmaTextScaledWordEmbedding\) does more than look vectors"):
        check_itself(lm)


@pytest.mark.parametrize("kind", ["arcee", "vaultgemma"])
def test_one_pass_is_the_loop(kind: str, tmp_path: Path) -> None:
    lm = loaded(kind, tmp_path).double().train().requires_grad_(True)
    compare(lm, tokens(1, 53), RATIOS, "raw")


def test_what_only_listed_ones_have(tmp_path: Path) -> None:
    lm = loaded("arcee", tmp_path / "backbone")
    for act in (lambda: lm.save_pretrained(tmp_path / "whole", beacon_only=False), lambda: Full().prepare(lm)):
        with pytest.raises(
            ValueError, match=r"(beacon_only=False|tuning=full) is not allowed: .* allowed: beacons alone"
        ):
            act()
    with pytest.raises(ValueError, match=r"'arcee' is not allowed where a strategy shards .* not listed"):
        BeaconLM.from_pretrained(str(tmp_path / "backbone"), BEACON, shard=lambda part: None)
    with pytest.raises(ValueError, match=r"overlap is not allowed .* allowed: overlap=0"):
        lm.compress(tokens(1, 29)).to_transformers()
    with pytest.raises(ValueError, match=r"params=.*gate"):
        loaded("glm", tmp_path / "glm", BeaconConfig(window=8, ratios=2, params=("gate:2",)))


REFUSED = {
    "qwen3_next": "layers of linear attention, convolution or a state-space model keep one state",
    "mamba": "state-space model",
    "lfm2": "convolution",
    "gpt2": "positions are not by RoPE",
    "bert": "positions are not by RoPE",
    "gemma3": "its config has one for text inside",
    "llama4_text": "layers of the kind 'chunked_attention'",
    "ministral3": "its rope_parameters have a setting llama_4_scaling_beta",
    "deepseek_v3": "its attention .* has no head_dim",
    "gpt_oss": "its attention .* has weights of its own, sinks",
    "granitemoe": "a layer .* has no self_attn and mlp",
    "phi": "its decoder has no module model.norm",
    "granitemoehybrid": "layers of linear attention, convolution or a state-space model keep one state",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_broken_assumption_is_named(kind: str) -> None:
    with pytest.raises(
        ValueError,
        match=f"model_type='{kind}' is not supported: .*{REFUSED[kind]}.*; allowed: gemma2, gemma3_text, granite, ",
    ):
        BeaconLM.from_config(config(kind), BEACON)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("ministral", {"head_dim": None}, r"transformers cannot make the model of its config \(TypeError: "),
        ("granitemoehybrid", {"layer_types": ["attention"] * 2}, "a layer .* has no self_attn and mlp"),
        ("arcee", {"attn_logit_softcapping": 30.0}, r"its attention \(ArceeAttention\) has no attn_logit_softcapping"),
        ("arcee", {"final_logit_softcapping": 30.0}, r"gave other logits .*, with final_logit_softcapping=30\.0$"),
        ("olmo", {"clip_qkv": 8.0}, "clip_qkv=8.0 clips queries, keys and values"),
        (
            "seed_oss",
            {"attention_dropout": 0.1},
            r"attention_dropout=0.1 .* takes as attention_dropout=0.0, a command as",
        ),
        ("seed_oss", {"residual_dropout": 0.1}, "residual_dropout=0.1 is not allowed"),
        ("phimoe", {"router_jitter_noise": 0.01}, "router_jitter_noise=0.01 is not allowed"),
        ("starcoder2", {"embedding_dropout": 0.1}, "embedding_dropout=0.1 is not allowed"),
    ],
)
def test_a_setting_is_refused(kind: str, values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BeaconLM.from_config(config(kind, **values), BEACON)


def test_what_the_check_finds_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"^model_type='cohere2' is not supported: layers 3, 7 have no RoPE, others have$"
    ):
        BeaconLM.from_config(config("cohere2", num_hidden_layers=8), BEACON)
    with pytest.raises(
        ValueError, match=r"'stablelm' is not supported: .* without the arguments that its layer was given"
    ):
        BeaconLM.from_config(config("stablelm"), BEACON)


def test_every_config_of_a_known_type_is_looked_at() -> None:
    lm = BeaconLM.from_config(config("arcee"), BEACON)
    assert type(BeaconLM.from_config(lm.config, BEACON)) is type(lm)
    with pytest.raises(ValueError, match=r"'arcee' is not supported: clip_qkv=8\.0"):
        BeaconLM.from_config(config("arcee", clip_qkv=8.0), BEACON)


def test_the_check_notices_other_positions_and_another_head(tmp_path: Path) -> None:
    lm = loaded("arcee", tmp_path)
    check_itself(lm)
    attention = lm.model.layers[1].self_attn
    right = attention.rotation
    attention.rotation = lambda x, cos, sin: x
    with pytest.raises(ValueError, match="'arcee' is not supported: one window of random tokens gave other hidden"):
        check_itself(lm)
    attention.rotation = lambda x, cos, sin: right(x, cos.roll(1, 0), sin.roll(1, 0))  # a window is no row alone
    with pytest.raises(ValueError, match="gave other hidden states than the plain model"):
        check_itself(lm)
    attention.rotation = right
    lm.lm_head.scale = LogitScale(2.0)
    with pytest.raises(ValueError, match="one window of random tokens gave other logits"):
        check_itself(lm)
    del attention.scaling
    with pytest.raises(ValueError, match="its layers cannot be run on windows"):
        check_itself(lm)
