"""Ratio policy "budget": memory never outgrows it, and uses it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit import BeaconConfig
from beacon_lit.arch.ratios import Limits, RowWindows, find_policy
from tests.arch.caches import assert_same, model
from tests.arch.tiny import examples, tokens

LIMITS = Limits(window=16, ratios=(2, 4, 8), sink=2, overlap=4, positions=10_000, slot_bytes=2**12)


def choose(policy: str, length: int, count: int, first: int = 0, memory: int = 0, limits: Limits = LIMITS):
    return find_policy(policy).choose(RowWindows(0, first, count, length, memory), limits, None).ratios


def test_the_smallest_ratio_that_leaves_room_for_what_comes() -> None:
    assert choose("budget-26", 49, 4)[:3] == (2, 2, 2)  # 3 windows close: 2 + 24 slots
    assert choose("budget-25", 49, 4)[:3] == (4, 2, 2)
    assert choose("budget-14", 49, 4)[:3] == (4, 4, 4)
    assert choose("budget-8", 49, 4)[:3] == (8, 8, 8)
    assert choose("budget-7", 49, 4)[:3] == (8, 8, "drop")
    assert choose("budget-3", 49, 4)[:3] == ("drop", 8, "drop")  # the sink comes with the first window
    assert choose("budget-12", 49, 2, first=2, memory=8) == (4, "drop")  # what the length did not say


def test_mebibytes_are_slots_of_the_backbone() -> None:
    assert choose("budget-1MiB", 999, 1) == choose(f"budget-{2**20 // 2**12}", 999, 1)


@examples(200)
@given(
    budget=st.integers(1, 200),
    parts=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    told=st.booleans(),
    unfinished=st.sampled_from(["raw", "beacons"]),
)
@torch.no_grad()
def test_memory_never_outgrows_it(budget: int, parts: list[int], told: bool, unfinished: str) -> None:
    lm = model("qwen2", unfinished=unfinished, ratio_policy=f"budget-{budget}", ratios=(2, 4, 8))
    ids, cache = tokens(1, sum(parts)), None
    for part in ids.split(parts, 1):
        cache = lm.compress(part, cache=cache, total_length=ids.shape[1] if told else None)
        assert cache.rows[0].memory_slots <= max(budget, lm.beacon.sink)
    if told:  # read at once or in parts
        assert_same(cache, lm.compress(ids))
        least = 2 + (ids.shape[1] - 1) // 8  # slots at ratio 8, with room for the sink
        assert budget < least or cache.rows[0].memory_slots >= min(budget - 4, (ids.shape[1] - 1) // 8 * 4)


@torch.no_grad()
def test_generation_keeps_it() -> None:
    lm = model("llama", ratio_policy="budget-12", ratios=(2, 4, 8))
    out = lm.generate(
        tokens(2, 19), max_new_tokens=60, do_sample=False, eos_token_id=None, return_dict_in_generate=True
    )
    assert [row.memory_slots for row in out.past_key_values.rows] == [12, 12]


def test_what_may_follow_the_name() -> None:
    for wrong in ("budget", "budget-0", "budget-4KiB", "budget-x"):
        with pytest.raises(ValueError, match=rf"ratio_policy='{wrong}'.*budget-N or budget-NMiB"):
            BeaconConfig(ratio_policy=wrong, placement="interleave")
