"""Rows that join and leave at any time answer as each would alone."""

from typing import Any

import pytest
import torch

from beacon_lit.arch import RowDecoding
from tests.arch.caches import assert_same, model
from tests.arch.tiny import tokens

GREEDY: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "return_dict_in_generate": True}
SETTINGS = [
    {"placement": "select", "params": ("k", "v")},
    {"placement": "interleave"},
    {"placement": "interleave", "unfinished": "beacons"},
    {"placement": "select", "params": ("k", "v"), "ratio_policy": "adapt-4"},
    {"placement": "select", "params": ("k", "v"), "head_budgets": [[1.5, 0.5], [1, 1]]},
]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
@torch.no_grad()
def test_rows_that_come_and_go_answer_as_alone(settings: dict[str, Any], device: str) -> None:
    lm: Any = model("qwen2", **settings).to(device)
    ratio = None if lm.beacon.policy.plans_ahead else 2
    # start, answer and length of four sequences; two rows are there at a time
    plan = [(0, 9, 30), (0, 20, 5), (9, 14, 17), (20, 6, 60)]
    decoding, written, running, left = RowDecoding(lm, 2, ratio), {}, {}, {}
    for step in range(40):
        for number, (start, count, length) in enumerate(plan):
            if start == step:
                out = lm(
                    tokens(1, length, seed=number).to(device), use_cache=True, ratios=ratio, total_length=length + count
                )
                running[decoding.join(out.cache, length + count)] = number
                written[number] = [int(out.logits[0, -1].argmax())]
        logits = decoding.step({row: written[number][-1] for row, number in running.items()}) if running else {}
        for row, number in list(running.items()):
            written[number].append(int(logits[row].argmax()))
            if len(written[number]) == plan[number][1]:
                left[number] = decoding.leave(row)
                del running[row]
    assert not decoding.rows and len(left) == 4
    for number, (_, count, length) in enumerate(plan):
        ids = tokens(1, length, seed=number).to(device)
        expected = lm.generate(ids, max_new_tokens=count, ratios=ratio, total_length=length + count, **GREEDY)
        assert written[number] == expected.sequences[0, length:].tolist()
        assert_same(left[number], expected.past_key_values)


@torch.no_grad()
def test_rows_that_wait_stay_as_they_are() -> None:
    lm = model("llama", "select", params=("k", "v"))
    decoding = RowDecoding(lm, 3, 2)
    caches = [lm(tokens(1, 13, seed=i), use_cache=True, ratios=2).cache for i in range(2)]
    one, two = (decoding.join(cache, 30) for cache in caches)
    for token in range(3, 20):
        assert set(decoding.step({one: token})) == {one}
    assert_same(decoding.leave(two), caches[1])
    assert decoding.leave(one).seen_tokens == 13 + 17 and not decoding.rows
