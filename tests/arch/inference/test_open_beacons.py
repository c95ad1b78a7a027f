"""Static buffers in which beacons run as tokens come hold, after every step, what calls from cache to cache leave."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from beacon_lit import BeaconLM
from beacon_lit.arch.inference import closing
from beacon_lit.arch.inference.decode import Decoding, remaining_ratios
from beacon_lit.arch.inference.decode_static import StaticDecoding
from beacon_lit.arch.inference.moving import Opened
from beacon_lit.arch.inference.static import Buffers, InWindow, StaticStep
from beacon_lit.arch.nn import attention
from beacon_lit.arch.nn.own_maps import project
from beacon_lit.arch.placements import placement_names
from beacon_lit.arch.placements.placement import interleaved
from beacon_lit.arch.plan.state import RowState
from tests.arch.caches import assert_same, model, padded
from tests.arch.cases import divisors
from tests.arch.inference.test_closing import counts, different
from tests.arch.inference.test_decode import logits_of, texts_of
from tests.arch.placements.proof import own_maps
from tests.arch.tiny import ALL, SLIDING, assert_close, examples, kinds, tokens
from tests.arch.ways import small_steps

INSERTED = ("interleave", "own-unit")


def with_beacons(family: str = "qwen2", placement: str = "interleave", **settings: Any) -> BeaconLM:
    """A model whose open windows hold beacons, if the placement inserts them."""
    backbone = kinds("mms", 5) if family in SLIDING else None
    defaults = {"unfinished": "beacons", "backbone": backbone, **own_maps(placement)}
    return model(family, placement, **defaults | settings)


@pytest.mark.parametrize("placement", placement_names())
@pytest.mark.parametrize("family", ["qwen2", "gemma3_text"])
@given(data=st.data())
@examples(20)
@torch.no_grad()
def test_every_step_is_that_of_a_call(family: str, placement: str, data: st.DataObject) -> None:
    """Logits and caches, whatever the windows, rows and ratios, and whichever rows change places in between."""
    window = data.draw(st.sampled_from([1, 2, 6, 8]))
    sink = data.draw(st.integers(0, window - 1))
    settings = {"window": window, "ratios": tuple(divisors(window)), "sink": sink}
    lm = with_beacons(family, placement, overlap=data.draw(st.integers(0, window - sink)), **settings)
    lengths, steps = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=3)), data.draw(st.integers(1, 20))
    choices, batch = st.sampled_from([*divisors(window), 0, "drop"]), len(lengths)
    per_window = st.lists(choices, min_size=41, max_size=41)
    ratios = data.draw(st.none() | choices | st.tuples(*[per_window] * batch).map(list))
    texts = different(*(length + steps for length in lengths), 9)
    heads = [text[:length] for text, length in zip(texts, lengths, strict=False)]
    cache, other = lm.compress(*padded(heads), ratios=ratios), lm.compress(texts[-1][None], ratios=1)
    order = data.draw(st.dictionaries(st.integers(0, steps), st.tuples(*[st.integers(0, batch - 1)] * batch)))
    put = data.draw(st.sets(st.integers(0, steps)))
    with small_steps(windows=2, slots=8):
        one, two = (
            way(lm, cache, remaining_ratios(ratios, (RowState(window),) * batch, cache.rows), None, None)
            for way in (StaticDecoding, Decoding)
        )
        for step in range(steps):
            ids = torch.stack([text[length + step] for text, length in zip(texts, lengths, strict=False)])[:, None]
            assert_close(one.step(ids), two.step(ids), 1e-9, f"logits of step {step}")
            for way in (one, two):
                if step in order:
                    way.reorder(torch.tensor(order[step]))
                if step in put:
                    way.replace([0], other, [0])
            assert_same(one.cache(), two.cache())


@pytest.mark.parametrize("placement", INSERTED)
@pytest.mark.parametrize("family", ALL)
@torch.no_grad()
def test_every_family(family: str, placement: str) -> None:
    lm = with_beacons(family, placement, params=("q", "k", "v", "o"))
    cache, ids = lm.compress(*padded(texts_of((14, 3, 8)))), tokens(3, 30, seed=9)
    one, two = (way(lm, cache, None, None, None) for way in (StaticDecoding, Decoding))
    for column in ids.split(1, 1):
        assert_close(one.step(column), two.step(column), 1e-9)
    assert_same(one.cache(), two.cache())


@torch.no_grad()
def test_own_maps_of_the_mlp() -> None:
    lm = with_beacons(params=("k:2", "v", "gate:2", "down:2"))
    cache, ids = lm.compress(tokens(2, 19)), tokens(2, 30)
    assert_close(logits_of(StaticDecoding, lm, cache, ids), logits_of(Decoding, lm, cache, ids), 1e-9)


@torch.no_grad()
def test_a_policy_that_counts_slots() -> None:
    lm = with_beacons(ratio_policy="budget-20", ratios=(1, 2, 4, 8))
    cache, ids = lm.compress(tokens(2, 19), total_length=60), tokens(2, 41)
    one, two = (way(lm, cache, None, [60, 60], None) for way in (StaticDecoding, Decoding))
    for column in ids.split(1, 1):
        assert_close(one.step(column), two.step(column), 1e-9)
        assert_same(one.cache(), two.cache())


@pytest.mark.parametrize("placement", ["interleave", "append"])
@torch.no_grad()
def test_training_mode_draws_the_same(placement: str) -> None:
    lm = with_beacons(placement=placement, ratio_policy="random", ratios=(1, 2, 4, 8))
    cache, ids = lm.compress(*padded(texts_of((14, 3, 7))), ratios=2), tokens(3, 30)
    lm.train()
    one, two = (way(lm, cache, None, None, None) for way in (StaticDecoding, Decoding))
    for column in ids.split(1, 1):
        assert_close(one.step(column), two.step(column), 1e-9)
    assert_same(one.cache(), two.cache())


@pytest.mark.parametrize("placement", INSERTED)
@torch.no_grad()
def test_layers_run_over_a_token_and_a_beacon_per_row(placement: str) -> None:
    """A step without beacons runs over the raw tokens alone, and a closing window over nothing."""
    lm = with_beacons(placement=placement, ratios=(4,))
    cache = lm.compress(tokens(3, 16))  # all windows are empty
    layers = len(lm.model.layers)
    seen = counts(lm, lambda: logits_of(StaticDecoding, lm, cache, tokens(3, 16)))
    assert seen[::layers] == [3, 3, 3, 6] * 4


# Controls: with one thing wrong in the buffers, the logits of later steps must differ.
def unprojected(patch: pytest.MonkeyPatch) -> None:
    """Beacons go through the maps of raw tokens."""
    patch.setattr(attention, "project", lambda module, names, stream, raw: project(module, names, stream, len(stream)))


def misplaced_beacons(patch: pytest.MonkeyPatch) -> None:
    """Beacons are written over their raw tokens."""
    steps = Buffers.steps

    def wrong(self: Buffers, like: Tensor, places: Tensor, window: InWindow) -> dict[int, StaticStep]:
        places = places.clone()
        places[len(self.first) :] -= 1
        return steps(self, like, places, window)

    patch.setattr(Buffers, "steps", wrong)


def unmoved_entries(patch: pytest.MonkeyPatch) -> None:
    """Memory gets no keys of tokens that are read one by one."""
    patch.setattr(Opened, "write", lambda *arguments: None)


def wrong_beacons(patch: pytest.MonkeyPatch) -> None:
    """Memory gets the raw tokens before the beacons."""
    patch.setattr(closing, "interleaved", lambda *arguments: (lambda at: (at[0], at[1] - 1))(interleaved(*arguments)))


def unmasked(patch: pytest.MonkeyPatch) -> None:
    """Beacons see the raw tokens of other units."""
    seen = Buffers._seen

    def wrong(self: Buffers, places: Tensor, window: InWindow) -> Tensor:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(type(self.lm.beacon.placing), "masked", False)
            return seen(self, places, window)

    patch.setattr(Buffers, "_seen", wrong)


def forgotten_ratios(patch: pytest.MonkeyPatch) -> None:
    """Windows that begin get no beacons."""
    patch.setattr(StaticDecoding, "_choose_ratios", lambda *arguments: None)


CONTROLS = [unprojected, misplaced_beacons, unmoved_entries, wrong_beacons, unmasked, forgotten_ratios]


@pytest.mark.parametrize("wrong", CONTROLS)
@torch.no_grad()
def test_what_is_wrong_shows(wrong: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    lm = with_beacons("gemma3_text", "own-unit", overlap=3)
    cache, ids = lm.compress(tokens(2, 19)), tokens(2, 20)
    right, called = logits_of(StaticDecoding, lm, cache, ids), logits_of(Decoding, lm, cache, ids)
    assert_close(right, called, 1e-9)
    wrong(monkeypatch)
    assert (logits_of(StaticDecoding, lm, cache, ids) - right).abs().max() > 1e-3
