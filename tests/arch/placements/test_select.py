"""Placement "select" against its definition, head by head and token by token."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from beacon_lit import BeaconConfig
from beacon_lit.arch.nn.selection import stand_out
from tests.arch.cases import Case, cases
from tests.arch.oracle import HeadEntry, Rule, append
from tests.arch.placements import proof
from tests.arch.tiny import ALL, FAMILIES, OTHERS, assert_close, examples, tiny, tokens
from tests.arch.ways import anew, by_calls


def scores(keys: list[Tensor], sunk: int) -> list[float]:
    """Of the keys of one head: minus the cosine with the mean direction, averaged over two neighbours to each side."""
    directions = [key / key.norm() for key in keys]
    mean = sum(directions[sunk:], torch.zeros_like(directions[0]))
    alone = [-float(direction @ mean / mean.norm()) for direction in directions]
    found = []
    for i in range(len(keys)):
        near = [alone[j] for j in range(max(i - 2, sunk), min(i + 3, len(keys)))]
        found.append(sum(near) / len(near) if i >= sunk else -math.inf)
    return found


def keeps(raw: list[HeadEntry], projected: list[HeadEntry], about: Sequence[int]) -> list[HeadEntry]:
    """A head's best tokens, in their order."""
    _, _, count, sunk = about
    return best(raw, projected, count, sunk)


def best(raw: list[HeadEntry], projected: list[HeadEntry], count: int, sunk: int) -> list[HeadEntry]:
    """The `count` best tokens of a head, in their order."""
    found = scores([key.detach() for key, _ in raw], sunk)
    order = sorted(range(len(found)), key=lambda i: (-found[i], i))
    return [projected[i] for i in sorted(order[:count])]


RULE = Rule(append, keeps=keeps)


@pytest.mark.parametrize("family", FAMILIES)
@examples(60)
@given(case=cases(placements=("select",)))
def test_one_pass_is_the_loop(family: str, case: Case) -> None:
    proof.assert_is_the_loop(family, case, RULE)


@pytest.mark.parametrize("family", OTHERS)
@examples(8)
@given(case=cases(placements=("select",)))
def test_other_families(family: str, case: Case) -> None:
    proof.assert_is_the_loop(family, case, RULE)


def test_another_rule_shows() -> None:
    def last(raw: list[HeadEntry], projected: list[HeadEntry], about: Sequence[int]) -> list[HeadEntry]:
        return projected[-about[2] :]

    def unprojected(raw: list[HeadEntry], projected: list[HeadEntry], about: Sequence[int]) -> list[HeadEntry]:
        return keeps(raw, raw, about)

    assert proof.difference("select", RULE) < 1e-9
    assert proof.difference("select", Rule(append, keeps=last)) > 1e-2
    assert proof.difference("select", Rule(append, keeps=unprojected)) > 1e-2


@pytest.mark.parametrize("unfinished", ["raw", "beacons"])
@examples(20)
@given(cut=proof.CUTS, family=st.sampled_from(ALL))
def test_the_cut_does_not_matter(unfinished: str, cut: list[int], family: str) -> None:
    proof.assert_cut_does_not_matter(family, "select", unfinished, cut)


@pytest.mark.parametrize("ways", [by_calls, anew])
def test_generation(ways) -> None:
    proof.assert_generates_as_read_anew("select", ways)


def test_scoring_a_window_is_decoding_it() -> None:
    proof.assert_scoring_is_decoding("select")


@torch.no_grad()
def test_at_ratio_1_untrained_it_is_the_backbone_on_other_slots() -> None:
    """Everything is kept: a window sees all tokens before it, where a window kept raw would leave them."""
    beacon = BeaconConfig(window=8, ratios=1, placement="select", params=("k", "v"))
    lm, ids = tiny("llama", beacon, dtype=torch.float64), tokens(1, 37)
    lm.initialize_beacons()
    assert_close(lm(ids, ratios=1).logits, lm.dense(ids).logits, 1e-9)
    assert (lm(ids, ratios=2).logits - lm.dense(ids).logits).abs().max() > 1e-2


def test_a_token_like_no_other_is_kept_with_its_neighbours() -> None:
    k = torch.ones(1, 32, 1, 4)
    k[0, 20] = torch.tensor([1.0, -1, 1, -1])
    allowed = torch.ones(1, 32, dtype=torch.bool)
    best = stand_out(k, allowed)[0, 0].topk(5).indices
    assert sorted(best.tolist()) == [18, 19, 20, 21, 22]
    allowed[0, 20] = False
    assert stand_out(k, allowed)[0, 0, 20] == -math.inf and stand_out(k, allowed)[0, 0, 19].isfinite()


def test_maps_of_tokens_that_do_not_run_are_refused() -> None:
    for params in (("q",), ("k", "o:4"), ("gate:2",)):
        with pytest.raises(
            ValueError, match=r"params='\w+' .*maps of k and v with placement='select', whose beacons do"
        ):
            BeaconConfig(placement="select", params=params)
