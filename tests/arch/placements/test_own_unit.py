"""Placement "own-unit" against its definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.arch.cases import Case, cases
from tests.arch.oracle import RULES, Rule, Token, interleave
from tests.arch.placements import proof
from tests.arch.tiny import ALL, FAMILIES, examples
from tests.arch.ways import anew, by_calls


def sees(query: Token, key: Token) -> bool:
    """A beacon: the raw tokens of its unit, and the beacons up to itself. A raw token: all before it."""
    if query.is_beacon and not key.is_beacon:
        unit = query.after - (query.after + 1) // (query.index + 1) + 1  # the unit's first raw token
        return unit <= key.index <= query.after
    return interleave(query, key)


def slot(query: Token, tokens: list[Token]) -> int:
    """Its place in the interleaved order."""
    return sum(interleave(query, key) for key in tokens) - 1


RULE = Rule(sees, inserts=True, sees_tail=lambda query: not query.is_beacon, slot=slot)


@pytest.mark.parametrize("family", FAMILIES)
@examples(60)
@given(case=cases(placements=("own-unit",)))
def test_one_pass_is_the_loop(family: str, case: Case) -> None:
    proof.assert_is_the_loop(family, case, RULE)


def test_another_rule_shows() -> None:
    assert proof.difference("own-unit", RULE) < 1e-9
    assert proof.difference("own-unit", RULES["interleave"]) > 1e-2
    assert proof.difference("own-unit", Rule(sees, inserts=True, slot=slot)) > 1e-3  # beacons that see the overlap


@pytest.mark.parametrize("unfinished", ["raw", "beacons"])
@examples(20)
@given(cut=proof.CUTS, family=st.sampled_from(ALL))
def test_the_cut_does_not_matter(unfinished: str, cut: list[int], family: str) -> None:
    proof.assert_cut_does_not_matter(family, "own-unit", unfinished, cut)


@pytest.mark.parametrize("ways", [by_calls, anew])
def test_generation(ways) -> None:
    proof.assert_generates_as_read_anew("own-unit", ways)


def test_kernels() -> None:
    proof.assert_kernels_are_refused("own-unit")
