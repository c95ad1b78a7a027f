"""A sequence read in pieces equals the sequence read at once."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beacon_lit import BeaconCache, BeaconConfig, BeaconLM
from tests.arch.caches import assert_same, model
from tests.arch.parity import Case, names
from tests.arch.placements import proof
from tests.arch.tiny import ALL, FAMILIES, OTHERS, tiny, tokens
from tests.arch.ways import anew

CUTS = st.lists(st.integers(1, 23), min_size=1, max_size=6)


@pytest.mark.parametrize("name", [name for name in names("input_ids.1")])
@torch.no_grad()
def test_several_calls_match_the_paper(name: str) -> None:
    case = Case(name)
    cache, logits = None, []
    for i in range(len(case.settings["lengths"])):
        out = case.model.eval()(case.get(f"input_ids.{i}"), unfinished="beacons", cache=cache, use_cache=True)
        cache = out.cache
        logits.append(out.logits)
    torch.testing.assert_close(torch.cat(logits, 1), case.get("eval.logits"), atol=1e-5, rtol=0)
    assert slots(cache) == case.settings["eval_memory"]


@pytest.mark.parametrize("name", names("eval.logits"))
@torch.no_grad()
def test_slots_match_the_paper(name: str) -> None:
    case = Case(name)
    ids = case.input_ids[:1]
    assert slots(case.model.eval()(ids, unfinished="beacons", use_cache=True).cache) == case.settings["eval_memory"]
    if "train_memory" in case.settings:
        cache = case.model(ids, unfinished="raw", use_cache=True, ratios=None).cache
        memory = case.settings["train_memory"]
        if memory["window"]:  # the paper's training leaves no window open that is full
            assert slots(cache) == memory


@pytest.mark.parametrize("unfinished", ["raw", "beacons"])
@pytest.mark.parametrize("placement", ["interleave", "select"])
@torch.no_grad()
def test_slots_are_known_without_reading(placement: str, unfinished: str) -> None:
    beacon = BeaconConfig(8, (2, 4), sink=2, overlap=3, placement=placement, params=("k", "v"), unfinished=unfinished)
    lm = tiny("llama", beacon).eval()
    for length in (1, 8, 9, 16, 29):
        for ratio in (2, 4):
            (row,) = lm(tokens(1, length), ratios=ratio, use_cache=True).cache.rows
            assert lm.cache_slots(length, ratio) == row.slots


def slots(cache: BeaconCache) -> dict[str, int]:
    return {"sink": cache.sink_slots, "beacon": cache.beacon_slots, "window": cache.window_slots}


@pytest.mark.parametrize("unfinished", ["raw", "beacons"])
@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@settings(max_examples=15)
def test_the_cut_does_not_matter(family: str, unfinished: str, data: st.DataObject) -> None:
    assert_cut_does_not_matter(family, unfinished, data)


@pytest.mark.parametrize("family", OTHERS)
@given(unfinished=st.sampled_from(["raw", "beacons"]), data=st.data())
@settings(max_examples=5)
def test_other_families(family: str, unfinished: str, data: st.DataObject) -> None:
    assert_cut_does_not_matter(family, unfinished, data)


@torch.no_grad()
def assert_cut_does_not_matter(family: str, unfinished: str, data: st.DataObject) -> None:
    placement = data.draw(st.sampled_from(["interleave", "append", "step-expansion"]))
    sink, overlap = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
    lm = model(family, placement, sink, overlap, unfinished)
    cut = data.draw(CUTS)
    ids = tokens(2, sum(cut))
    whole = lm(ids, use_cache=True)
    cache, pieces = None, []
    for part in ids.split(cut, 1):
        out = lm(part, cache=cache, use_cache=True)
        cache = out.cache
        pieces.append(out.logits)
    assert_same(cache, whole.cache)
    logits = torch.cat(pieces, 1)
    opened = len(whole.cache.rows[0].open_ids) if unfinished == "raw" else ids.shape[1]
    last = logits[:, ids.shape[1] - opened :]
    torch.testing.assert_close(last, whole.logits[:, ids.shape[1] - opened :], atol=1e-8, rtol=1e-8)
    assert_same(lm.compress(ids), whole.cache)


@torch.no_grad()
def test_a_shifted_cache_is_noticed() -> None:
    lm = model("qwen2", "interleave", 2, 3, "raw")
    ids = tokens(1, 23)
    cache = lm(ids[:, :20], use_cache=True).cache
    right = lm(ids[:, 20:], cache=cache).logits
    for name in ("memory_k", "memory_v", "open_k", "open_v", "moving_k", "moving_v"):
        layers = tuple(replace(layer, **{name: getattr(layer, name).roll(1, 0)}) for layer in cache.layers)
        wrong = lm(ids[:, 20:], cache=replace(cache, layers=layers)).logits
        assert (right - wrong).abs().max() > 1e-3, name


@torch.no_grad()
def test_a_call_leaves_the_cache_it_was_given_as_it_was() -> None:
    lm = model("llama", "interleave", 2, 3, "raw")
    cache = lm.compress(tokens(1, 29))
    before = [layer.map(lambda _, tensor: tensor.clone()) for layer in cache.layers]
    one = lm(tokens(1, 20), cache=cache).logits
    assert torch.equal(one, lm(tokens(1, 20), cache=cache).logits)
    lm.generate(tokens(1, 20), cache=cache, max_new_tokens=20, do_sample=False)
    for old, layer in zip(before, cache.layers, strict=True):
        assert all(torch.equal(value, getattr(layer, name)) for name, value in vars(old).items())


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("placement", ["interleave", "select"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_rows_of_a_batch_equal_the_rows_alone(side: str, placement: str, family: str) -> None:
    lm = model(family, placement, 1, 2, "raw", **proof.own_maps(placement))
    lengths, width = (5, 30, 17), 30
    ids, mask = tokens(3, width), torch.zeros(3, width, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, slice(width - length, None) if side == "left" else slice(length)] = 1
    cache = lm.compress(ids, mask)
    more = tokens(3, 13, seed=1)  # no token is repeated in a window, between which rounding would choose
    out = lm(more, cache=cache)
    for row in range(3):
        alone = lm.compress(ids[row : row + 1, mask[row].bool()])
        assert alone.rows[0] == cache.rows[row]
        single = lm(more[row : row + 1], cache=alone)
        torch.testing.assert_close(single.logits[0], out.logits[row], atol=1e-8, rtol=1e-8)


@torch.no_grad()
def test_losses_of_pieces_are_those_of_the_whole() -> None:
    lm = model("llama", "interleave", 2, 3, "beacons")
    ids = tokens(2, 37)
    whole = lm(ids, labels=ids)
    cache, losses = None, []
    for part in ids.split([9, 1, 14, 13], 1):
        out = lm(part, labels=part, cache=cache, use_cache=True)
        cache = out.cache
        losses.append(out.token_loss)
    torch.testing.assert_close(torch.cat(losses, 1), whole.token_loss, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_a_head_can_be_kept_uncompressed() -> None:
    lm = model("qwen2", "interleave", 0, 3, "raw")
    ids = tokens(1, 40)
    cache = lm.compress(ids, ratios=[4, 2, 2, 2, 2, 2], skip=5)
    row = cache.rows[0]
    assert (row.kept_slots, row.beacon_slots, row.windows) == (5, 16, 5) and len(row.open_ids) == 3


@torch.no_grad()
def test_ratios_belong_to_the_windows_a_call_touches() -> None:
    lm = model("qwen2", "interleave", 0, 0, "raw")
    cache = lm.compress(tokens(1, 20), ratios=[2, 4, 2])  # two windows close, four tokens stay open at ratio 2
    assert cache.rows[0].beacon_slots == 4 + 2
    assert lm(tokens(1, 9), cache=cache, ratios=[4, 4]).cache.rows[0].beacon_slots == 6 + 4  # the smaller one wins
    with pytest.raises(ValueError, match="one per window"):
        lm(tokens(1, 9), cache=cache, ratios=[4])


@torch.no_grad()
def test_generation_goes_on_from_a_cache() -> None:
    lm = model("llama", "interleave", 2, 3, "raw")
    ids = tokens(1, 33)
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None}
    whole = lm.generate(ids, **options)
    cache = lm.compress(ids[:, :21])
    assert torch.equal(lm.generate(ids[:, 21:], cache=cache, **options)[:, 12:], whole[:, 33:])
    current = ids
    for _ in range(20):
        current = torch.cat([current, lm(current, logits_to_keep=1).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(whole, current)


@pytest.mark.parametrize("unfinished", ["raw", "beacons"])
@torch.no_grad()
def test_beams_equal_beams_that_read_everything_anew(unfinished: str) -> None:
    lm = model("qwen2", "interleave", 2, 3, unfinished)
    ids, mask = tokens(2, 30), torch.ones(2, 30, dtype=torch.long)
    mask[0, :9] = 0
    options = {"max_new_tokens": 15, "num_beams": 3, "do_sample": False, "eos_token_id": None, "ratios": 2}
    found = lm.generate(ids, attention_mask=mask, **options)

    with anew():
        assert torch.equal(found, lm.generate(ids, attention_mask=mask, **options))


@torch.no_grad()
def test_beams_go_on_from_a_cache() -> None:
    lm = model("llama", "interleave", 0, 2, "raw")
    ids = tokens(1, 30)
    options = {"max_new_tokens": 12, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    cache = lm.compress(ids[:, :19])
    found = lm.generate(ids[:, 19:], cache=cache, return_dict_in_generate=True, **options)
    assert torch.equal(found.sequences[:, 11:], lm.generate(ids, **options)[:, 30:])
    assert found.past_key_values is None and cache.seen_tokens == 19


@torch.no_grad()
def test_ratios_of_a_generation_go_on() -> None:
    lm = model("llama", "interleave", 0, 2, "raw")
    ids = tokens(2, 12)
    options = {"max_new_tokens": 25, "do_sample": False, "eos_token_id": None, "return_dict_in_generate": True}
    beacons = [
        lm.generate(ids, ratios=ratios, **options).past_key_values.rows[0].beacon_slots
        for ratios in (2, 4, [4, 2], [[2, 4], [4, 2]])
    ]
    assert beacons == [16, 8, 2 + 4 + 4 + 4, 4 + 2 + 2 + 2]  # 36 tokens read: four windows of 8 have closed


@torch.no_grad()
def test_rows_can_be_selected() -> None:
    lm = model("llama", "interleave", 1, 2, "beacons")
    cache = lm.compress(tokens(3, 29), ratios=4)
    picked = cache.select([2, 0, 2])
    more = tokens(1, 11).expand(3, -1)
    out, whole = lm(more, cache=picked, ratios=2), lm(more, cache=cache, ratios=2)
    for place, row in enumerate((2, 0, 2)):
        torch.testing.assert_close(out.logits[place], whole.logits[row], atol=1e-10, rtol=0)
    with pytest.raises(ValueError, match="row 3"):
        cache.select([3])


@torch.no_grad()
def test_what_does_not_fit_is_refused() -> None:
    lm = model("llama", "interleave", 0, 0, "raw")
    cache = lm.compress(tokens(1, 20))
    with pytest.raises(ValueError, match="rows"):
        lm(tokens(2, 4), cache=cache)
    with pytest.raises(ValueError, match="unfinished='beacons'"):
        lm(tokens(1, 4), cache=cache, unfinished="beacons")
    with pytest.raises(ValueError, match="skip=9"):
        lm.compress(tokens(1, 8), skip=9)
    with pytest.raises(ValueError, match="labels has the token id 500"):
        lm(tokens(1, 4), labels=torch.full((1, 4), 500), cache=cache)
    with pytest.raises(ValueError, match="4"):
        lm.generate(tokens(4, 5), cache=lm.compress(tokens(2, 5)), max_new_tokens=2)
    with pytest.raises(ValueError, match="padding on the left"):
        lm.generate(tokens(1, 5), attention_mask=torch.tensor([[1, 1, 1, 0, 0]]), max_new_tokens=2)


@pytest.mark.parametrize("placement", ["interleave", "append"])
@torch.no_grad()
def test_inserted_beacons_keep_the_ratio_their_window_began_with(placement: str) -> None:
    lm = model("llama", placement, 0, 2, "beacons")
    ids = tokens(1, 20)
    cache = lm(ids[:, :5], ratios=4, use_cache=True).cache
    for part, ratios in ((ids[:, 5:6], 2), (ids[:, 6:7], 2), (ids[:, 7:], [2, 2, 2])):
        out = lm(part, ratios=ratios, cache=cache)
        cache = out.cache
    whole = lm(ids, ratios=[4, 2, 2], use_cache=True)
    assert cache.rows == whole.cache.rows
    torch.testing.assert_close(out.logits, whole.logits[:, 7:], atol=1e-8, rtol=1e-8)


@torch.no_grad()
def test_a_head_stays_raw_when_the_text_ends_with_it() -> None:
    lm = model("qwen2", "interleave", 0, 3, "raw")
    ids = tokens(1, 30)
    cache = lm.compress(ids[:, 5:], cache=lm.compress(ids[:, :5], skip=5))
    assert (cache.rows[0].kept_slots, cache.rows[0].windows) == (5, 4)
    assert_same(cache, lm.compress(ids, skip=5))


@pytest.mark.parametrize("unfinished", ["raw", "beacons"])
@torch.no_grad()
def test_rows_at_different_places_of_their_windows_are_compressed_in_chunks(unfinished: str) -> None:
    lm = model("llama", "interleave", 1, 2, unfinished)
    ids, mask = tokens(2, 7), torch.tensor([[0, 0, 0, 0, 1, 1, 1], [1] * 7])
    cache, more = lm.compress(ids, mask, ratios=4), tokens(2, 150)
    assert_same(lm.compress(more, cache=cache, ratios=4), lm(more, cache=cache, ratios=4).cache)


def adaptive(positions: int = 64) -> BeaconLM:
    beacon = BeaconConfig(window=8, ratios=(2, 4, 8), ratio_policy="adapt-0", placement="interleave")
    return tiny("llama", beacon, max_position_embeddings=positions).double().eval()


@torch.no_grad()
def test_adapt_chooses_for_each_row_alone() -> None:
    lm = adaptive()
    ids, mask = tokens(2, 150), torch.ones(2, 150, dtype=torch.long)
    mask[0, :100] = 0
    rows = lm.compress(ids, mask).rows
    assert [row.adapted for row in rows] == [2, 4] == [row.adapted for row in lm(ids, mask, use_cache=True).cache.rows]
    assert rows[0] == lm.compress(ids[:1, 100:]).rows[0]


@torch.no_grad()
def test_adapt_is_raised_only_when_memory_would_overflow() -> None:
    lm = adaptive()
    ids = tokens(1, 150)
    cache = lm.compress(ids[:, :30])
    assert cache.rows[0].adapted == 2 and lm.compress(ids[:, 30:60], cache=cache).rows[0].adapted == 2
    assert lm.compress(ids[:, 30:], cache=cache).rows[0].adapted == 4
    generated = lm.generate(ids[:, :20], max_new_tokens=110, do_sample=False, eos_token_id=None)
    assert generated.shape == (1, 130)
    with pytest.raises(ValueError, match="longest supported"):
        lm.compress(tokens(1, 900))


@torch.no_grad()
def test_adapt_remembers_a_total_length_given_early() -> None:
    lm = adaptive()
    cache = lm.compress(tokens(1, 5), total_length=150)
    assert cache.rows[0].adapted == 4 and lm.compress(tokens(1, 12), cache=cache).rows[0].beacon_slots == 4


@torch.no_grad()
def test_no_ratio_is_asked_for_where_none_is_needed() -> None:
    lm = tiny("llama", BeaconConfig(window=8, ratios=(2, 4), placement="interleave")).double().eval()
    cache = lm.compress(tokens(1, 4), ratios=4)
    assert lm(tokens(1, 6), cache=cache).cache.rows[0].beacon_slots == 2
    assert lm.compress(tokens(1, 8), skip=5).rows[0].kept_slots == 5
    with pytest.raises(ValueError, match="eval_ratio"):
        lm(tokens(1, 6), cache=lm.compress(tokens(1, 4)))


@torch.no_grad()
def test_ratios_of_rows_go_to_all_their_beams() -> None:
    lm = model("llama", "interleave", 0, 2, "raw")
    ids = tokens(2, 12)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    both = lm.generate(ids, ratios=[[2, 4], [4, 2]], num_beams=2, **options)
    alone = lm.generate(ids[1:], ratios=[4, 2], num_beams=2, **options)
    assert torch.equal(both[1], alone[0])
