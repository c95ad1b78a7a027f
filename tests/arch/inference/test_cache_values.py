"""A cache is a value: nothing changes it, forks share it, and its rows move freely."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit import BeaconCache, BeaconLM
from beacon_lit.arch.plan.state import RowState
from tests.arch.caches import assert_goes_on_alike, assert_same, assert_unchanged, going_on, model, padded, snapshot
from tests.arch.tiny import ALL, assert_close, examples, tokens
from tests.arch.ways import small_steps

MODES = ("raw", "beacons")
PLACEMENTS = st.sampled_from(["interleave", "append", "step-expansion"])
GREEDY = {"do_sample": False, "eos_token_id": None}
Operation = Callable[[BeaconLM, BeaconCache, Path], object]

OPERATIONS: dict[str, Operation] = {
    "within the window": lambda lm, cache, path: lm(tokens(3, 1), labels=tokens(3, 1), cache=cache),
    "over a border": lambda lm, cache, path: lm(tokens(3, 20), labels=tokens(3, 20), cache=cache, ratios=2),
    "compress": lambda lm, cache, path: lm.compress(tokens(3, 70), cache=cache),
    "generate": lambda lm, cache, path: lm.generate(tokens(3, 2), cache=cache, max_new_tokens=20, **GREEDY),
    "beams": lambda lm, cache, path: lm.generate(tokens(3, 2), cache=cache, max_new_tokens=9, num_beams=2, **GREEDY),
    "a long prompt": lambda lm, cache, path: lm.generate(tokens(3, 70), cache=cache, max_new_tokens=9, **GREEDY),
    "fork": lambda lm, cache, path: lm(tokens(3, 20), cache=cache.fork()),
    "select": lambda lm, cache, path: lm(tokens(4, 20), cache=cache.select([2, 0, 0, 1])),
    "stack": lambda lm, cache, path: lm(tokens(6, 20), cache=BeaconCache.stack([cache, cache])),
    "put": lambda lm, cache, path: lm(tokens(3, 20), cache=cache.put([1], cache.select([2]))),
    "rollback": lambda lm, cache, path: lm(tokens(3, 20), cache=cache.rollback(1)),
    "save": lambda lm, cache, path: cache.save(path / "cache"),
    "move": lambda lm, cache, path: cache.to(torch.float32),
}


@pytest.mark.parametrize("unfinished", MODES)
@pytest.mark.parametrize("operation", OPERATIONS)
@torch.no_grad()
def test_nothing_changes_a_cache(operation: str, unfinished: str, tmp_path: Path) -> None:
    lm = model("llama", unfinished=unfinished)
    made = lm.compress(*padded([tokens(length, seed=length) for length in (21, 5, 30)]))
    started = lm.generate(tokens(3, 21), max_new_tokens=17, return_dict_in_generate=True, **GREEDY).past_key_values
    for cache in (made, started):
        before = snapshot(cache)
        OPERATIONS[operation](lm, cache, tmp_path)
        assert_unchanged(cache, before)


@pytest.mark.parametrize("unfinished", MODES)
@torch.no_grad()
def test_forks_share_memory_until_one_closes_a_window(unfinished: str) -> None:
    lm = model("qwen2", unfinished=unfinished)
    cache = lm.compress(tokens(2, 18))
    before = snapshot(cache)
    one, two = (lm(tokens(2, 3, seed=seed), cache=cache.fork()).cache for seed in (1, 2))
    assert memory(one) == memory(two) == memory(cache) == memory(cache.fork().rollback(1))
    closed = lm(tokens(2, 9), cache=one).cache
    assert not memory(closed) & memory(cache) and closed.rows[0].windows == 3
    assert memory(two) == memory(cache)
    assert_unchanged(cache, before)


def memory(cache: BeaconCache) -> set[int]:
    """Where the tensors of a cache's memory lie."""
    return {tensor.data_ptr() for layer in cache.layers for tensor in (layer.memory_k, layer.memory_v)}


def alone(lm: BeaconLM, lengths: Sequence[int]) -> list[BeaconCache]:
    """A cache for each row, read alone."""
    return [lm.compress(tokens(1, length, seed=length)) for length in lengths]


@pytest.mark.parametrize("unfinished", MODES)
@given(data=st.data())
@examples(10)
@torch.no_grad()
def test_rows_in_any_order_go_on_as_they_would_alone(unfinished: str, data: st.DataObject) -> None:
    lm = model(data.draw(st.sampled_from(ALL)), data.draw(PLACEMENTS), 1, 3, unfinished)
    single = alone(lm, data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=4)))
    order = data.draw(st.lists(st.integers(0, len(single) - 1), min_size=1, max_size=5))
    picked = BeaconCache.stack(single).select(order)
    places = data.draw(st.lists(st.integers(0, len(order) - 1), min_size=1, max_size=len(order), unique=True))
    taken = data.draw(st.lists(st.integers(0, len(single) - 1), min_size=len(places), max_size=len(places)))
    cache = picked.put(places, BeaconCache.stack([single[row] for row in taken]))
    for place, row in zip(places, taken, strict=True):
        order[place] = row
    logits, losses, after = going_on(lm, cache, 11)
    more = tokens(len(order), 11, seed=99)
    for place, row in enumerate(order):
        assert_same(cache.select([place]), single[row])
        out = lm(more[place : place + 1], labels=more[place : place + 1], cache=single[row], ratios=2)
        assert_close(logits[place], out.logits[0], 1e-8)
        assert_close(losses[place], out.token_loss[0], 1e-5)
        assert_same(after.select([place]), out.cache)


@torch.no_grad()
def test_rows_of_generations_can_be_stacked() -> None:
    lm = model("qwen3")
    with small_steps(windows=8, slots=8):
        caches = [
            lm.generate(tokens(2, length), max_new_tokens=9, return_dict_in_generate=True, **GREEDY).past_key_values
            for length in (4, 20)
        ]
    stacked = BeaconCache.stack(caches)
    for cache, rows in zip(caches, ([0, 1], [2, 3]), strict=True):
        assert_same(stacked.select(rows), cache)
        assert_goes_on_alike(lm, stacked.select(rows), cache)


@torch.no_grad()
def test_rows_that_do_not_go_together_are_refused() -> None:
    lm, other, inserted = model(), model(sink=3), model(unfinished="beacons")
    cache, text = lm.compress(tokens(3, 12)), tokens(1, 12)
    for wrong, what in (
        (other.compress(text), "differ in fingerprint"),
        (inserted.compress(text), "differ in unfinished"),
        (cache.select([0]).to(torch.float32), r"dtype torch\.float64 and torch\.float32"),
    ):
        with pytest.raises(ValueError, match=what):
            BeaconCache.stack([cache, wrong])
        with pytest.raises(ValueError, match=what):
            cache.put([1], wrong)
    with pytest.raises(ValueError, match="caches="):
        BeaconCache.stack([])
    with pytest.raises(ValueError, match="rows="):
        cache.select([])
    with pytest.raises(ValueError, match="1 rows, 2 are to be replaced"):
        cache.put([0, 1], cache.select([2]))
    for row in (-1, 3):
        with pytest.raises(ValueError, match=rf"row {row} is not allowed; allowed: 0 to 2"):
            cache.select([0, row])


def test_counts_are_the_most_where_rows_differ() -> None:
    lm = model(sink=2, overlap=3)
    cache = lm.compress(*padded([tokens(30, seed=1), tokens(5, seed=2)]))
    long, short = cache.rows
    assert short == RowState(8, seen_tokens=5, open_ids=short.open_ids, window_slots=5)
    assert (cache.sink_slots, cache.beacon_slots, cache.overlap_slots) == (2, 4 + 2 + 4, 3)
    assert (cache.window_slots, cache.seen_tokens) == (6, 30) and len(long.open_ids) == 6
