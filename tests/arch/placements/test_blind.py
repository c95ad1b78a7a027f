"""Placement "blind" against its definition, and what it is for: raw tokens that do not notice beacons."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.arch.cases import Case, cases
from tests.arch.oracle import RULES, Rule, Token, step_expansion
from tests.arch.placements import proof
from tests.arch.tiny import ALL, FAMILIES, examples
from tests.arch.ways import anew, by_calls


def slot(query: Token, tokens: list[Token]) -> int:
    """That of the raw token, for a beacon of the last one of its unit."""
    return query.after if query.is_beacon else query.index


RULE = Rule(step_expansion, slot=slot)


@pytest.mark.parametrize("family", FAMILIES)
@examples(60)
@given(case=cases(placements=("blind",)))
def test_one_pass_is_the_loop(family: str, case: Case) -> None:
    proof.assert_is_the_loop(family, case, RULE)


def test_another_rule_shows() -> None:
    assert proof.difference("blind", RULE) < 1e-9
    assert proof.difference("blind", RULES["interleave"]) > 1e-2
    assert proof.difference("blind", RULES["step-expansion"]) > 1e-2  # it sees the same, from other slots


@pytest.mark.parametrize("unfinished", ["raw", "beacons"])
@examples(20)
@given(cut=proof.CUTS, family=st.sampled_from(ALL))
def test_the_cut_does_not_matter(unfinished: str, cut: list[int], family: str) -> None:
    proof.assert_cut_does_not_matter(family, "blind", unfinished, cut)


@pytest.mark.parametrize("ways", [by_calls, anew])
def test_generation(ways) -> None:
    proof.assert_generates_as_read_anew("blind", ways)


def test_scoring_a_window_is_decoding_it() -> None:
    proof.assert_scoring_is_decoding("blind")


def test_kernels() -> None:
    proof.assert_kernels_are_refused("blind")
