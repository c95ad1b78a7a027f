"""Caches and decoding of models with sliding windows of any size: cuts, rollback, static buffers, exports."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers.models.gemma3.modeling_gemma3 import Gemma3Attention, Gemma3RotaryEmbedding

from beacon_lit import BeaconCache, BeaconConfig, BeaconLM
from beacon_lit.arch.families.gemma3 import BeaconGemma3ForCausalLM
from beacon_lit.arch.inference.decode import Decoding
from beacon_lit.arch.inference.decode_static import StaticDecoding
from beacon_lit.arch.inference.static import Buffers
from beacon_lit.arch.plan.kinds import LayerKind
from tests.arch.caches import assert_goes_on_alike, assert_same, model, padded
from tests.arch.inference.test_decode import assert_ways_are_one, logits_of, requests, texts_of
from tests.arch.inference.test_dense import plain
from tests.arch.placements import proof
from tests.arch.test_layer_kinds import FAMILY, REACHES
from tests.arch.tiny import assert_close, examples, hf_config, kinds, tokens

MODES = ["raw", "beacons"]
PLACEMENTS = st.sampled_from(["select", "interleave", "append", "own-unit", "blind"])
BACKBONES = st.builds(kinds, st.sampled_from(["sm", "smsm", "mss"]), st.sampled_from(REACHES))


def sliding(placement: str, unfinished: str, backbone: dict[str, Any]) -> BeaconLM:
    return model(FAMILY, placement, 1, 2, unfinished, backbone=backbone, **proof.own_maps(placement))


@pytest.mark.parametrize("unfinished", MODES)
@examples(40)
@given(cut=proof.CUTS, placement=PLACEMENTS, backbone=BACKBONES)
def test_the_cut_does_not_matter(unfinished: str, cut: list[int], placement: str, backbone: dict[str, Any]) -> None:
    proof.assert_cut_does_not_matter(FAMILY, placement, unfinished, cut, backbone)


@pytest.mark.parametrize("unfinished", MODES)
@examples(20)
@given(data=st.data(), placement=PLACEMENTS, backbone=BACKBONES)
@torch.no_grad()
def test_what_is_rolled_back_was_never_read(
    unfinished: str, data: st.DataObject, placement: str, backbone: dict[str, Any]
) -> None:
    lm = sliding(placement, unfinished, backbone)
    texts = texts_of(data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=3)))
    cache = lm.compress(*padded(texts), ratios=4)
    room = cache.room - (1 if unfinished == "beacons" else 0)
    assume(room > 0)
    further = lm(tokens(len(texts), room, seed=7), cache=cache, ratios=4).cache
    assert_same(further.rollback(room), cache)
    assert_goes_on_alike(lm, further.rollback(room), cache)


@pytest.mark.parametrize("unfinished", MODES)
@examples(10)
@given(data=st.data(), backbone=BACKBONES)
@torch.no_grad()
def test_rows_go_on_as_they_would_alone(unfinished: str, data: st.DataObject, backbone: dict[str, Any]) -> None:
    lm = sliding("interleave", unfinished, backbone)
    texts = texts_of(data.draw(st.lists(st.integers(1, 30), min_size=2, max_size=3)))
    both, (first, *others) = lm.compress(*padded(texts)), [lm.compress(text[None]) for text in texts]
    assert_same(BeaconCache.stack([first, *others]), both)
    assert_same(both.select([1]), others[0])
    assert_goes_on_alike(lm, both.put([0], others[0]).select([0]), others[0])


@pytest.mark.parametrize("unfinished", MODES)
@examples(12)
@given(data=st.data(), placement=PLACEMENTS, backbone=BACKBONES)
@torch.no_grad()
def test_three_ways_to_generate_are_one(
    unfinished: str, data: st.DataObject, placement: str, backbone: dict[str, Any]
) -> None:
    assert_ways_are_one(sliding(placement, unfinished, backbone), data.draw(requests()))


@torch.no_grad()
def test_generation_with_head_budgets() -> None:
    budgets = {"params": ("k", "v"), "head_budgets": ((2.25, 0.25), (0.5, 1.0))}
    lm = model(FAMILY, "select", 1, 2, "raw", backbone=kinds("msm", 11), **budgets)
    cache, ids = lm.compress(tokens(2, 19)), tokens(2, 30)
    assert len(cache.layers) == 5  # two heads of two layers, and the layer between
    found = logits_of(StaticDecoding, lm, cache, ids)
    assert_close(found, logits_of(Decoding, lm, cache, ids), 1e-9)
    with pytest.raises(ValueError, match="head_budgets"):
        cache.to_transformers()


@pytest.mark.parametrize("reach", REACHES)
@torch.no_grad()
def test_a_layer_keeps_its_window_and_the_open_one(reach: int) -> None:
    lm, ids = sliding("select", "raw", kinds("sm", reach)), tokens(1, 100)
    for ratio in (2, 8):
        layer, memory = lm.compress(ids, ratios=ratio).layers
        assert len(layer.memory_k) == min(reach - 1, 96) and len(layer.open_k) == 4 and len(layer.moving_k) == 0
        assert len(memory.memory_k) == 1 + 96 // ratio


@pytest.mark.parametrize("reach", [1, 5, 30])
@torch.no_grad()
def test_bytes_are_those_of_transformers_cache(reach: int) -> None:
    lm, ids = sliding("select", "raw", kinds("smss", reach)), tokens(1, 20)
    kept = lm.dense(ids, use_cache=True).past_key_values
    found = sum(layer.keys.nbytes + layer.values.nbytes for layer in kept.layers)
    # transformers keeps all tokens where a sliding window has one, as its slices end at -1 + 1.
    wanted = lm.dense_cache_bytes(20) if reach > 1 else found
    assert found == wanted
    assert lm.limits.slot_bytes == 2 * 2 * 8 * 8  # one layer: keys and values of two heads, in float64
    cache = lm.compress(tokens(1, 100), ratios=4)
    row = cache.rows[0]
    closing = 2 * row.window_slots + row.overlap_slots  # slots in the bytes of what closes the open window
    slots = row.slots + 3 * (min(reach - 1, 96) + 4)
    for each, count in ((cache, slots + closing), (cache.visible, slots)):
        own = sum(value.nbytes for layer in each.layers for value in vars(layer).values())
        assert own == lm.limits.slot_bytes * count


@torch.no_grad()
def test_a_cache_from_disk_goes_on(tmp_path: Path) -> None:
    lm = sliding("interleave", "raw", kinds("sms", 11))
    cache = lm.compress(*padded(texts_of((5, 30, 16))))
    cache.save(tmp_path / "cache")
    again = BeaconCache.load(tmp_path / "cache")
    assert again.reaches == (None, 11)
    assert_same(again, cache)
    assert_goes_on_alike(lm, again, cache)
    other = sliding("interleave", "raw", kinds("sms", 12))
    with pytest.raises(ValueError, match="made by another model: it has reaches"):
        other(tokens(3, 4), cache=again)


@torch.no_grad()
def test_beacons_between_sliding_windows_identify_a_cache() -> None:
    """The first and the last layer have no maps of beacons here."""
    lm = sliding("select", "raw", kinds("sms", 5))
    cache = lm.compress(tokens(1, 20))
    lm.model.layers[1].self_attn.beacon_v_proj.weight += 0.1
    with pytest.raises(ValueError, match=r"made by another model: it has weights of .*beacon_v_proj"):
        lm(tokens(1, 4), cache=cache)


@torch.no_grad()
def test_a_wrong_buffer_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Controls: another slot, or another reach, in static buffers."""
    lm = sliding("select", "raw", kinds("sms", 5))
    cache, ids = lm.compress(tokens(2, 19)), tokens(2, 14)
    right = logits_of(StaticDecoding, lm, cache, ids)
    assert_close(right, logits_of(Decoding, lm, cache, ids), 1e-9)
    step = Buffers.steps

    def shifted(self: Buffers, *arguments: Any) -> Any:
        self.first += 1
        return step(self, *arguments)

    monkeypatch.setattr(Buffers, "steps", shifted)
    assert (logits_of(StaticDecoding, lm, cache, ids) - right).abs().max() > 1e-2


@pytest.mark.parametrize("reach", [2, 5, 9, 14])
@pytest.mark.parametrize("scale", [{}, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}])
@torch.no_grad()
def test_the_plain_model_goes_on_from_an_exported_cache(reach: int, scale: dict[str, Any]) -> None:
    backbone = kinds("smsm", reach)
    ropes = {"full_attention": {"rope_type": "default", "rope_theta": 1e5}}
    ropes |= {"sliding_attention": {"rope_type": "default", "rope_theta": 1e3} | scale}
    backbone |= {"rope_parameters": ropes}
    lm = sliding("select", "raw", backbone)
    dense = plain(lm, FAMILY, **backbone, max_position_embeddings=512)
    cache, question = lm.compress(tokens(2, 60)), tokens(2, 4, seed=1)
    cache = lm(tokens(2, 3, seed=2), cache=cache).cache  # into the open window
    assert cache.rows[0].slots < 40 and len(cache.rows[0].open_ids) == 7
    cache = cache.rollback(4)
    found = dense(question, past_key_values=cache.to_transformers(4)).logits
    assert_close(found, lm(question, cache=cache).logits, 1e-5, "logits")
    past = cache.to_transformers()
    steps = [dense(token, past_key_values=past).logits for token in question.split(1, 1)]
    assert_close(torch.cat(steps, 1), found, 1e-8, "logits")


def test_an_export_of_fewer_slots_than_a_sliding_window_is_refused() -> None:
    with torch.no_grad():
        cache = sliding("select", "raw", kinds("sm", 50)).compress(tokens(1, 80), ratios=8)
    with pytest.raises(ValueError, match="a cache of 20 slots is not allowed: the backbone's sliding window sees 49"):
        cache.to_transformers()


@torch.no_grad()
def test_each_kind_has_its_own_head_size_and_scale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As no family so far: layers with a sliding window are made from another config."""
    config, narrow = (hf_config(FAMILY, **kinds("sms", 5), head_dim=size) for size in (8, 4))
    narrow.query_pre_attn_scalar = 7
    make, turns = Gemma3Attention.__init__, Gemma3RotaryEmbedding(narrow)

    def init(self: Any, config: Any, layer_idx: int) -> None:
        make(self, narrow if config.layer_types[layer_idx] == "sliding_attention" else config, layer_idx)

    def rope(self: Any, like: torch.Tensor, slots: torch.Tensor, kind: LayerKind) -> Any:
        rotary = self.model.rotary_emb if kind.reach is None else turns
        return tuple(each[0] for each in rotary(like, slots[None], kind.layer_type))

    monkeypatch.setattr(Gemma3Attention, "__init__", init)
    monkeypatch.setattr(BeaconGemma3ForCausalLM, "rope", rope)
    torch.manual_seed(0)
    beacon = BeaconConfig(window=8, ratios=(2, 4), eval_ratio=2, sink=1, overlap=2)
    lm, ids = BeaconLM.from_config(config, beacon).double().eval(), tokens(2, 29)
    assert [layer.self_attn.scaling for layer in lm.model.layers] == [7**-0.5, 20**-0.5, 7**-0.5]
    cache = lm.compress(ids)
    assert [layer.memory_k.shape[1:] for layer in cache.layers] == [(2, 4), (2, 8), (2, 4)]
    assert_same(lm.compress(ids[:, 11:], cache=lm.compress(ids[:, :11])), cache)
    cache.save(tmp_path / "cache")
    assert_same(BeaconCache.load(tmp_path / "cache"), cache)
    assert lm.dense_cache_bytes(29) == 8 * 2 * 2 * (8 * 29 + 2 * 4 * 4)  # bytes, k and v, heads, and of each layer
    assert [each[0].shape[-1] for each in cache.to_transformers()] == [4, 8, 4]
    found = lm.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    for end in range(29, 41):
        assert torch.equal(lm(found[:, :end]).logits[:, -1].argmax(-1), found[:, end])
