"""Heads that keep different numbers of raw tokens, against the loop over windows, head by head."""

import dataclasses
import json
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit import BeaconCache, BeaconConfig, BeaconLM
from tests.arch.caches import assert_same, model
from tests.arch.cases import Case, cases
from tests.arch.oracle import HeadEntry, Rule, append
from tests.arch.placements import proof
from tests.arch.placements.test_select import RULE as EVEN
from tests.arch.placements.test_select import best
from tests.arch.tiny import ALL, FAMILIES, OTHERS, SLIDING, assert_close, examples, kinds, tiny, tokens

BUDGETS = ((2.25, 0.25), (0.5, 1.0))  # of the tiny models' two layers with two KV heads
MORE = {family: kinds("mms", 5) for family in SLIDING}  # layers that have none


def shared(mean: int, size: int, budgets: Sequence[Sequence[float]]) -> list[list[int]]:
    """Beacons of each head, by the definition: shares of the total, at most `size`, the rest to others, at least 1."""
    shares = {(i, h): share for i, row in enumerate(budgets) for h, share in enumerate(row)}
    left, counts = float(mean * len(shares)), {}
    while True:
        scale = left / sum(shares[head] for head in shares if head not in counts)
        above = [head for head in shares if head not in counts and shares[head] * scale > size]
        if not above:
            break
        counts |= dict.fromkeys(above, size)
        left = mean * len(shares) - size * len(counts)
        if len(counts) == len(shares):
            break
    return [
        [counts.get((i, h), max(1, int(shares[i, h] * scale + 1e-9))) for h in range(len(row))]
        for i, row in enumerate(budgets)
    ]


def rule(size: int, budgets: Sequence[Sequence[float]] = BUDGETS) -> Rule:
    """Each head keeps its own number of tokens of windows of `size`."""

    def keeps(raw: list[HeadEntry], projected: list[HeadEntry], about: Sequence[int]) -> list[HeadEntry]:
        layer, head, mean, sunk = about
        return best(raw, projected, shared(mean, size, budgets)[layer][head], sunk)

    return Rule(append, keeps=keeps)


def uneven(case: Case) -> Case:
    return dataclasses.replace(case, beacon=dataclasses.replace(case.beacon, head_budgets=BUDGETS))


@pytest.mark.parametrize("family", FAMILIES)
@examples(40)
@given(case=cases(placements=("select",)))
def test_one_pass_is_the_loop(family: str, case: Case) -> None:
    proof.assert_is_the_loop(family, uneven(case), rule(case.beacon.window))


@pytest.mark.parametrize("family", OTHERS)
@examples(5)
@given(case=cases(placements=("select",)))
def test_other_families(family: str, case: Case) -> None:
    proof.assert_is_the_loop(family, uneven(case), rule(case.beacon.window), **MORE.get(family, {}))


def test_even_memory_shows() -> None:
    beacon = BeaconConfig(window=8, ratios=(2, 4), placement="select", params=("k", "v"), head_budgets=BUDGETS)
    lm, ids = tiny("qwen2", beacon, dtype=torch.float64), tokens(1, 21)
    found = lm(ids, ratios=[2, 4, 2]).logits[0, 8:16]
    for other, close in ((rule(8), True), (EVEN, False)):
        expected = proof.oracle_logits(lm, ids[0], [2, 4, 2], "raw", other)[8:16]
        assert ((found - expected).abs().max() < 1e-9) == close


def test_equal_shares_are_no_budgets() -> None:
    plain = BeaconConfig(window=8, ratios=2, sink=1, overlap=2, placement="select", params=("k", "v"))
    ids = tokens(2, 30)
    with_budgets = tiny(beacon=dataclasses.replace(plain, head_budgets=((1, 1), (1, 1))))
    assert torch.equal(with_budgets(ids).logits, tiny(beacon=plain)(ids).logits)


def uneven_model(family: str = "qwen2", unfinished: str = "raw") -> BeaconLM:
    more = MORE.get(family)
    return model(family, "select", 1, 2, unfinished, backbone=more, params=("k", "v"), head_budgets=BUDGETS)


@pytest.mark.parametrize("unfinished", ["raw", "beacons"])
@examples(20)
@given(cut=proof.CUTS, family=st.sampled_from(ALL))
@torch.no_grad()
def test_the_cut_does_not_matter(unfinished: str, cut: list[int], family: str) -> None:
    lm, ids = uneven_model(family, unfinished), tokens(2, sum(cut))
    whole, cache = lm(ids, use_cache=True), None
    for part in ids.split(cut, 1):
        cache = lm(part, cache=cache, use_cache=True).cache
    assert_same(cache, whole.cache)
    assert_same(lm.compress(ids), whole.cache)


@torch.no_grad()
def test_a_cache_is_a_value_like_any_other(tmp_path) -> None:
    """Rows are selected, stacked, replaced, rolled back, saved and loaded with the memory of each of their heads."""
    lm, ids = uneven_model(), tokens(3, 30)
    cache = lm.compress(ids)
    lengths = [len(layer.memory_k) for layer in cache.layers]
    assert len(set(lengths)) == 4 and len(lengths) == 4  # all heads differ
    alone = [lm.compress(row[None]) for row in ids]
    assert_same(BeaconCache.stack(alone), cache)
    assert_same(cache.select([2, 0]), BeaconCache.stack([alone[2], alone[0]]))
    assert_same(cache.put([1], alone[0]), BeaconCache.stack([alone[0], alone[0], alone[2]]))
    assert_same(cache.rollback(3), lm.compress(ids[:, :27]))
    cache.save(tmp_path / "cache")
    loaded = BeaconCache.load(tmp_path / "cache")
    assert_same(loaded, cache)
    more = tokens(3, 20, seed=1)
    assert torch.equal(lm(more, cache=loaded).logits, lm(more, cache=cache).logits)
    with pytest.raises(ValueError, match="head_budgets"):
        model("qwen2", "select", 1, 2, "raw", params=("k", "v"))(more, cache=cache)


@torch.no_grad()
def test_the_memory_is_the_ratio_on_average() -> None:
    lm = uneven_model()
    for ratio in (2, 4):
        cache = lm.compress(tokens(1, 64), ratios=ratio)
        slots = sum(len(layer.memory_k) * layer.memory_k.shape[1] for layer in cache.layers) / 4 - cache.sink_slots
        assert 0 <= cache.beacon_slots - slots < cache.rows[0].windows


def test_generation_is_reading_anew() -> None:
    lm, ids = uneven_model("llama"), tokens(2, 19)
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "ratios": 2}
    found = lm.generate(ids, **options)
    for step in range(20):
        logits = lm(found[:, : 19 + step], ratios=2).logits[:, -1]
        assert torch.equal(logits.argmax(-1), found[:, 19 + step])


@torch.no_grad()
def test_the_dense_teacher_sees_no_budgets() -> None:
    lm, plain = uneven_model(), model("qwen2", "select", 1, 2, "raw", params=("k", "v"))
    ids = tokens(2, 30)
    assert_close(lm.dense(ids).logits, plain.dense(ids).logits, 1e-12)


@pytest.mark.parametrize(
    ("budgets", "settings", "named"),
    [
        (((1, 1), (1, 1)), {"placement": "interleave", "params": ("k",)}, "null with placement='interleave'"),
        (((1, 1), (1,)), {}, "a row for each layer, with a share for each KV head"),
        (((2, 0), (1, 1)), {}, "shares above 0"),
        (((2, 2), (1, 1)), {}, "a mean of 1"),
    ],
)
def test_budgets_that_are_none_are_refused(budgets, settings, named: str) -> None:
    with pytest.raises(ValueError, match=f"head_budgets=.*{named}"):
        BeaconConfig(**{"placement": "select", "params": ("k", "v"), "head_budgets": budgets} | settings)


def test_budgets_travel_with_the_config() -> None:
    beacon = BeaconConfig(placement="select", params=("k", "v"), head_budgets=BUDGETS)
    assert BeaconConfig.from_dict(json.loads(json.dumps(beacon.to_dict()))) == beacon


def test_budgets_of_another_model_are_refused() -> None:
    beacon = BeaconConfig(window=8, ratios=2, placement="select", params=("k", "v"), head_budgets=((1.5, 0.5),))
    with pytest.raises(ValueError, match=r"head_budgets of 1 layers .* allowed: 2 layers with 2 KV heads"):
        tiny(beacon=beacon)


def test_too_many_slots_of_one_head_are_refused() -> None:
    """The largest memory counts, not the average."""
    beacon = BeaconConfig(window=8, ratios=2, placement="select", params=("k", "v"))
    assert tiny(beacon=beacon, max_position_embeddings=64)(tokens(1, 100))
    lm = tiny(beacon=dataclasses.replace(beacon, head_budgets=BUDGETS), max_position_embeddings=64)
    with pytest.raises(ValueError, match="position slots"):
        lm(tokens(1, 100))
