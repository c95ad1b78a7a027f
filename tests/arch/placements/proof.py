"""What every placement must satisfy: one pass is the loop over windows, and how a text is cut does not matter."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.placements import find_placement
from tests.arch.caches import assert_same, model
from tests.arch.cases import Case
from tests.arch.oracle import Rule, oracle_logits, oracle_loss
from tests.arch.tiny import assert_close, gradients, tiny, tokens

CUTS = st.lists(st.integers(1, 20), min_size=1, max_size=6)


def own_maps(placement: str) -> dict[str, Any]:
    """Settings of the maps that beacons of a placement can have."""
    return {} if find_placement(placement).runs else {"params": ("k", "v")}


def assert_is_the_loop(family: str, case: Case, rule: Rule, **values: Any) -> None:
    """Values and gradients of one pass against the oracle, at any mix of ratios."""
    lm = tiny(family, case.beacon, seed=case.seed, dtype=torch.float64, **values)
    ids, ratios = tokens(1, case.lengths[0], seed=case.seed), case.ratios[0]
    out = lm(ids, labels=ids, ratios=ratios, unfinished=case.unfinished)
    expected = oracle_logits(lm, ids[0], ratios, case.unfinished, rule)
    assert_close(out.logits[0], expected, 1e-9, "logits")
    loss = oracle_loss(expected, ids[0])
    if not loss.requires_grad:
        return
    trained = {name: parameter for name, parameter in lm.named_parameters() if parameter.requires_grad}
    wanted = torch.autograd.grad(loss, list(trained.values()), materialize_grads=True)
    actual = gradients(lm, out.loss)
    for name, gradient in zip(trained, wanted, strict=True):
        assert_close(actual[name], gradient, 2e-6, name)


def difference(placement: str, rule: Rule) -> float:
    """Largest difference of the second window's logits from those that another rule gives."""
    beacon = BeaconConfig(window=8, ratios=2, sink=1, overlap=2, placement=placement, **own_maps(placement))
    lm, ids = tiny("qwen2", beacon, dtype=torch.float64), tokens(1, 21)
    found = lm(ids, ratios=[2, 4, 2]).logits[0] - oracle_logits(lm, ids[0], [2, 4, 2], "raw", rule)
    return float(found[8:16].detach().abs().max())


@torch.no_grad()
def assert_cut_does_not_matter(
    family: str, placement: str, unfinished: str, cut: Sequence[int], backbone: dict[str, Any] | None = None
) -> None:
    """One call, several calls and `compress` give the same cache, and the same logits of what is open."""
    lm = model(family, placement, 1, 2, unfinished, backbone=backbone, **own_maps(placement))
    ids = tokens(2, sum(cut))
    whole, cache, pieces = lm(ids, use_cache=True), None, []
    for part in ids.split(list(cut), 1):
        out = lm(part, cache=cache, use_cache=True)
        cache = out.cache
        pieces.append(out.logits)
    assert_same(cache, whole.cache)
    assert_same(lm.compress(ids), whole.cache)
    opened = len(whole.cache.rows[0].open_ids) if unfinished == "raw" else ids.shape[1]
    first = ids.shape[1] - opened
    assert_close(torch.cat(pieces, 1)[:, first:], whole.logits[:, first:], 1e-8, "logits")


@torch.no_grad()
def assert_generates_as_read_anew(placement: str, ways: Callable[[], Any]) -> None:
    """Greedy tokens, over several borders, from static buffers are those of a pass over everything."""
    lm: BeaconLM = model("llama", placement, 1, 2, "raw", **own_maps(placement))
    ids: Tensor = tokens(2, 19)
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "ratios": [2, 4, 8, 0, 2, 4]}
    found = lm.generate(ids, **options)
    with ways():
        assert torch.equal(lm.generate(ids, **options), found)


@torch.no_grad()
def assert_scoring_is_decoding(placement: str) -> None:
    """Logits of tokens in windows that close within a call are those that the tokens had one by one."""
    lm, ids = model("qwen3", placement, 1, 2, "raw", **own_maps(placement)), tokens(2, 37)
    whole, cache, pieces = lm(ids, ratios=2).logits, None, []
    for token in ids.split(1, 1):
        out = lm(token, cache=cache, use_cache=True, ratios=2)
        cache = out.cache
        pieces.append(out.logits)
    assert_close(torch.cat(pieces, 1), whole, 1e-8)


def assert_kernels_are_refused(placement: str) -> None:
    """A placement that masks says so before anything runs."""
    beacon = BeaconConfig(window=8, ratios=2, placement=placement)
    with pytest.raises(ValueError, match=rf"attn='varlen'.*placement='{placement}'.*auto, sdpa"):
        BeaconLM.from_config(tiny("qwen2").config, beacon, attn="varlen")
