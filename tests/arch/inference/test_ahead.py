"""Greedy decoding begins the next step before its tokens are known, and computes the same."""

import dataclasses
import gc
from typing import Any

import pytest
import torch
from torch import Tensor

from beacon_lit import BeaconCache, BeaconConfig, BeaconLM
from beacon_lit.arch.inference import generate
from beacon_lit.arch.inference.decode import Decoding, Finished
from beacon_lit.arch.inference.decode_static import StaticDecoding
from tests.arch.caches import padded, tensors
from tests.arch.tiny import tiny, tokens

BEACON = BeaconConfig(window=32, ratios=(2,), sink=2, overlap=5, placement="interleave")
SELECT = dataclasses.replace(BEACON, placement="select", params=("k", "v"))
OPEN = dataclasses.replace(BEACON, unfinished="beacons")
BEACONS = pytest.mark.parametrize("beacon", [BEACON, SELECT, OPEN], ids=["interleave", "select", "open beacons"])
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
STEPS = 80  # each row closes two windows


def started(beacon: BeaconConfig, device: str, ratios: Any = None, **sizes: Any) -> tuple[BeaconLM, BeaconCache]:
    """A model, and two rows at different places of their windows."""
    lm = tiny("qwen2", beacon=beacon, head_dim=16, **sizes).to(device).eval()
    ids, mask = padded([tokens(length, seed=length) for length in (40, 7)])
    return lm, lm.compress(ids.to(device), mask, ratios=ratios)


class Watched(StaticDecoding):
    """Counts the steps that run, and those that had begun with the right tokens."""

    launched = taken = 0

    def _launch(self) -> None:
        self.launched += 1
        super()._launch()

    def step(self, ids: Tensor) -> Tensor:
        begun = self.ahead is not None and self.ahead.ids is not None
        logits = super().step(ids)
        self.taken += begun and self.ahead is not None and not self.ahead.wrong
        return logits


def both(lm: BeaconLM, cache: BeaconCache, finished: Finished | None = None) -> tuple[Watched, Watched]:
    """A decoding that begins steps ahead, and one that does not."""
    return Watched(lm, cache, None, None, finished, greedy=True), Watched(lm, cache, None, None, finished)


def assert_equal(one: BeaconCache, two: BeaconCache) -> None:
    """The same states, and the same numbers bit for bit."""
    assert one.rows == two.rows
    for name, value in tensors(one).items():
        assert torch.equal(value, tensors(two)[name]), name


def greedy(decoding: Decoding, first: Tensor, wrong: int | None = None) -> Tensor:
    """(2, STEPS, V) logits, each after the likeliest token; at one step after others than the likeliest."""
    ids, found = first, []
    for step in range(STEPS):
        found.append(decoding.step(ids).clone())
        ids = found[-1].argmax(-1)
        if step == wrong:
            ids = (ids + 1) % found[-1].shape[-1]
    return torch.cat(found, 1)


@torch.no_grad()
@DEVICES
@BEACONS
def test_the_same_logits_and_caches(beacon: BeaconConfig, device: str) -> None:
    lm, cache = started(beacon, device)
    first = tokens(2, 1).to(device)
    ahead, plain = both(lm, cache)
    assert torch.equal(greedy(ahead, first), greedy(plain, first))
    assert ahead.taken > STEPS - 10 and plain.taken == 0  # not at borders, and not before a graph exists
    assert ahead.launched == plain.launched + 1 == STEPS + 1
    assert_equal(ahead.cache(), plain.cache())


@torch.no_grad()
@DEVICES
@BEACONS
def test_wrong_tokens_are_read_again(beacon: BeaconConfig, device: str) -> None:
    lm, cache = started(beacon, device)
    first = tokens(2, 1).to(device)
    ahead, plain = both(lm, cache)
    assert torch.equal(greedy(ahead, first, 40), greedy(plain, first, 40))
    assert 20 < ahead.taken <= 40 and ahead.launched == plain.launched + 1  # from then on, none begins
    assert not torch.equal(greedy(plain, first), greedy(ahead, first, 40))  # other tokens are told apart


def read_until_a_row_ends(
    lm: BeaconLM, cache: BeaconCache, steps: int, ends: int, since: int
) -> tuple[Watched, Watched]:
    """Decode two rows both ways, of which one has ended after step `since`; the other one reads the same to the end."""
    finished = Finished()
    ahead, plain = both(lm, cache, finished)
    ids = tokens(2, 1).to(lm.device)
    for step in range(steps):
        found, expected = ahead.step(ids).clone(), plain.step(ids)
        assert torch.equal(found[1 - ends], expected[1 - ends])
        ids = expected.argmax(-1)
        if step >= since:
            finished.rows = torch.arange(2, device=lm.device) == ends
            ids[ends] = 0
    return ahead, plain


@torch.no_grad()
@DEVICES
@pytest.mark.parametrize("beacon", [SELECT, OPEN], ids=["select", "open beacons"])
def test_rows_that_have_ended(beacon: BeaconConfig, device: str) -> None:
    """Whatever an ended row is given, the others go on."""
    ahead, plain = read_until_a_row_ends(*started(beacon, device), steps=STEPS, ends=1, since=10)
    assert ahead.taken > STEPS - 10 and ahead.cache().rows == plain.cache().rows


@torch.no_grad()
@DEVICES
@pytest.mark.parametrize("ends", [0, 1])
def test_a_row_that_ends_as_its_window_would_close(ends: int, device: str) -> None:
    """What both rows' windows leave is known; only the other one's closes."""
    lm = tiny("qwen2", beacon=SELECT, head_dim=16).to(device).eval()
    cache = lm.compress(tokens(2, 40).to(device))
    ahead, plain = read_until_a_row_ends(lm, cache, steps=30, ends=ends, since=23)  # 64 tokens: both windows are full
    assert [row.windows for row in ahead.cache().rows] == [2 - (row == ends) for row in range(2)]
    assert_equal(ahead.cache(), plain.cache())


@torch.no_grad()
@DEVICES
@BEACONS
def test_a_step_that_has_begun_changes_nothing_yet(beacon: BeaconConfig, device: str) -> None:
    """Caches, other sequences in a row, and reordered rows, all in between."""
    lm, cache = started(beacon, device)
    decoded = []
    for begins in (True, False):
        decoding = Watched(lm, cache, None, None, None, greedy=begins)
        ids, found = tokens(2, 1).to(device), []
        for step in range(40):  # over a border in each row
            ids = decoding.step(ids).argmax(-1)
            found.append(decoding.cache_of(0) if step % 3 else decoding.cache())
            if step == 8:
                decoding.replace([1], found[0], [0])
            if step == 12:
                decoding.reorder(torch.tensor([1, 0], device=device))
                ids = ids.flip(0)
        decoded.append(found)
    for one, two in zip(*decoded, strict=True):
        assert_equal(one, two)


@torch.no_grad()
def test_no_step_begins_without_a_position() -> None:
    lm, cache = started(dataclasses.replace(SELECT, ratios=(2,)), "cpu", max_position_embeddings=64)
    ids, found = tokens(2, 1), []
    for begins in (True, False):
        decoding, count = Watched(lm, cache, 0, None, None, greedy=begins), 0
        with pytest.raises(ValueError, match="position slots"):
            while True:
                ids = decoding.step(ids).argmax(-1)
                count += 1
        found.append(count)
    assert found[0] == found[1] > 0


@torch.no_grad()
def test_a_window_without_a_ratio_is_refused_when_it_closes() -> None:
    """Not with the token that fills it, which may be the last one."""
    lm, cache = started(dataclasses.replace(SELECT, ratios=(2, 4), ratio_policy="random"), "cpu", ratios=2)
    counts = []
    for begins in (True, False):
        decoding, ids, count = Watched(lm, cache, None, None, None, greedy=begins), tokens(2, 1), 0
        with pytest.raises(ValueError, match="ratio"):
            while True:
                ids = decoding.step(ids).argmax(-1)
                count += 1
        counts.append(count)
    assert counts == [56, 56]  # the windows have 8 and 7 tokens, and ratio 2; the next ones have none


@pytest.mark.parametrize("options, begins", [({}, True), ({"do_sample": True}, False), ({"num_beams": 2}, False)])
def test_generate_says_whether_it_is_greedy(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], begins: bool
) -> None:
    lm, given = tiny("qwen2", beacon=SELECT).eval(), []

    def start(*arguments: Any) -> Decoding:
        given.append(arguments[-1])
        return Decoding(*arguments)

    monkeypatch.setattr(generate, "start_decoding", start)
    lm.generate(tokens(1, 8), max_new_tokens=3, pad_token_id=0, **options)
    assert given == [begins]


@pytest.mark.gpu
@torch.no_grad()
def test_memory_is_free_only_after_the_step() -> None:
    """Buffers of a decoding that is dropped are not given to others while its step runs."""
    lm, cache = started(SELECT, "cuda")
    decoding = StaticDecoding(lm, cache, None, None, None, greedy=True)
    greedy(decoding, tokens(2, 1).cuda())
    assert decoding.ahead is not None and decoding.ahead.stream is not None
    stream = decoding.ahead.stream
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
    assert not stream.query()
    del decoding
    gc.collect()
    assert stream.query()
