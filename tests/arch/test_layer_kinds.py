"""Models whose layers are of two kinds: sliding windows of any size between layers with memory."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma3Config, Gemma3ForCausalLM, Gemma3ForConditionalGeneration

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.plan import build, sliding
from beacon_lit.arch.plan.kinds import Memory, Sliding
from tests.arch.cases import PLACEMENTS, Case, cases
from tests.arch.inference.test_dense import plain
from tests.arch.oracle import RULES
from tests.arch.placements import proof, test_blind, test_own_unit, test_select
from tests.arch.test_one_pass import VALUES, compare
from tests.arch.tiny import assert_close, examples, gradients, hf_config, kinds, tiny, tokens

FAMILY = "gemma3_text"
REACHES = (1, 2, 7, 8, 9, 20, 500)  # of windows of up to 9
BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, overlap=3, placement="interleave", params=("q", "k", "v", "o"))
ALL_RULES = RULES | {"select": test_select.RULE, "own-unit": test_own_unit.RULE, "blind": test_blind.RULE}


@pytest.mark.parametrize("placement", ALL_RULES)
@examples(12)
@given(data=st.data(), reach=st.sampled_from(REACHES), pattern=st.sampled_from(["ssm", "smsm", "mss"]))
def test_one_pass_is_the_loop(placement: str, data: st.DataObject, reach: int, pattern: str) -> None:
    case = data.draw(cases(placements=(placement,)))
    proof.assert_is_the_loop(FAMILY, case, ALL_RULES[placement], **kinds(pattern, reach))


@examples(12)
@given(case=cases(placements=PLACEMENTS), reach=st.sampled_from(REACHES))
def test_whole_model(case: Case, reach: int) -> None:
    settings = kinds("sms", reach)
    lm = tiny(FAMILY, case.beacon, seed=case.seed, dtype=torch.float64, **settings).requires_grad_(True)
    compare(lm, tokens(1, case.lengths[0], seed=case.seed), case.ratios[0], case.unfinished)


@pytest.mark.parametrize("placement", ["select", "interleave"])
@pytest.mark.parametrize("reach", REACHES)
@torch.no_grad()
def test_with_sliding_windows_alone_a_text_of_any_length_is_the_backbone(placement: str, reach: int) -> None:
    beacon = BeaconConfig(window=8, ratios=(2, 4), placement=placement)
    lm, ids = tiny(FAMILY, beacon, dtype=torch.float64, **kinds("sms", reach)), tokens(2, 53)
    lm.model.layers[1].self_attn.o_proj.weight.zero_()  # what the layer with memory sees is of no effect
    assert_close(lm(ids, ratios=[2, 4, 0, "drop", 2, 2, 4]).logits, lm.dense(ids).logits, VALUES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reach", [1, 7, 31, 32, 33, 100])
@torch.no_grad()
def test_a_window_is_the_backbone_bit_for_bit_whatever_the_reach(reach: int, dtype: torch.dtype) -> None:
    settings = kinds("sms", reach)
    lm, ids = tiny(FAMILY, dataclasses.replace(BEACON, window=32), dtype=dtype, **settings), tokens(1, 32)
    assert torch.equal(lm(ids).logits, plain(lm, FAMILY, **settings)(ids).logits)


def test_a_text_in_short_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, ids = tiny(FAMILY, BEACON, dtype=torch.float64), tokens(2, 53)
    expected = lm(ids, labels=ids, ratios=4)
    wanted = gradients(lm, expected.loss)
    build._built.cache_clear()
    monkeypatch.setattr(sliding, "LONGEST", 3)
    found = lm(ids, labels=ids, ratios=4)
    build._built.cache_clear()
    assert_close(found.logits, expected.logits, VALUES)
    for name, gradient in gradients(lm, found.loss).items():
        assert_close(gradient, wanted[name], 2e-6, name)


def test_another_reach_shows() -> None:
    ids = tokens(1, 53)
    found = [tiny(FAMILY, BEACON, dtype=torch.float64, sliding_window=reach)(ids, ratios=4).logits for reach in (5, 6)]
    assert (found[0] - found[1]).abs().max() > 1e-2


def test_maps_that_no_query_would_see_are_left_out() -> None:
    names = {name for name, _ in tiny(FAMILY, BEACON).named_parameters() if "beacon" in name and "layers" in name}
    own = {f"model.layers.0.self_attn.beacon_{name}_proj.weight" for name in "qo"}
    assert names == own | {f"model.layers.1.self_attn.beacon_{name}_proj.weight" for name in "qkvo"}
    select = tiny(FAMILY, BeaconConfig(window=8, ratios=2, placement="select"))
    assert not any("layers.0" in name and "beacon" in name for name, _ in select.named_parameters())


def test_five_of_six_layers_slide() -> None:
    config = hf_config(FAMILY, layer_types=None, num_hidden_layers=7)
    lm = BeaconLM.from_config(config, BEACON)
    assert lm.groups.kinds == (Memory(), Sliding(5))
    assert [layer for layer, group in lm.groups.parts if group == 0] == [5]


@torch.no_grad()
def test_the_text_model_of_a_model_for_text_and_images(tmp_path: Path) -> None:
    """As docs/models.md says."""
    text = vars(hf_config(FAMILY, tie_word_embeddings=True)) | {"pad_token_id": 0}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config={name: value for name, value in text.items() if not name.startswith("_")},
        vision_config=vision | {"image_size": 16, "patch_size": 8},
        mm_tokens_per_image=4,
    )
    whole = Gemma3ForConditionalGeneration(config).eval()
    with pytest.raises(ValueError, match="'gemma3' is not supported: its config has one for text inside"):
        BeaconLM.from_config(config, BEACON)
    plain = Gemma3ForCausalLM(whole.config.text_config)
    plain.model, plain.lm_head = whole.model.language_model, whole.lm_head
    plain.save_pretrained(tmp_path)
    lm, ids = BeaconLM.from_pretrained(str(tmp_path), BEACON).eval(), tokens(1, 8)
    assert torch.equal(lm(ids).logits, whole(input_ids=ids).logits)


def test_a_model_without_memory_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"layer_types=\['sliding_attention'\] is not allowed: no layer sees more than"
    ):
        BeaconLM.from_config(hf_config(FAMILY, **kinds("s", 5)), BEACON)


def test_the_cap_of_logits() -> None:
    """Transformers' Gemma 3 caps logits, and ignores the setting of scores."""
    lm, ids = tiny(FAMILY, BEACON, final_logit_softcapping=3.0).eval(), tokens(1, 8)
    assert torch.equal(lm(ids).logits, lm.dense(ids).logits) and 2 < lm(ids).logits.abs().max() < 3
    with pytest.raises(ValueError, match=r"attn_logit_softcapping=30.0 is not allowed: .* do not cap"):
        BeaconLM.from_config(hf_config(FAMILY, attn_logit_softcapping=30.0), BEACON)


@pytest.mark.parametrize("name", ["attn_logit_softcapping", "final_logit_softcapping"])
@pytest.mark.parametrize("cap", [0.0, -2.0])
def test_caps_that_are_none(name: str, cap: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={cap} is not allowed; allowed: a number above 0, or null"):
        BeaconLM.from_config(hf_config("gemma2", **{name: cap}), BEACON)
    with pytest.raises(ValueError, match=f"{name}=30.0 is not allowed: transformers' models of this type do not cap"):
        BeaconLM.from_config(hf_config("llama", **{name: 30.0}), BEACON)


def test_attention_in_both_directions_is_refused() -> None:
    with pytest.raises(ValueError, match="use_bidirectional_attention=True is not allowed: beacons need causal"):
        BeaconLM.from_config(hf_config(FAMILY, use_bidirectional_attention=True), BEACON)


def test_head_budgets_are_those_of_layers_with_memory() -> None:
    beacon = BeaconConfig(window=8, ratios=2, placement="select", head_budgets=((1.5, 0.5), (0.5, 1.5)))
    with pytest.raises(ValueError, match=r"head_budgets of 2 layers .* allowed: 1 layers with 2 KV heads"):
        BeaconLM.from_config(hf_config(FAMILY), beacon)
