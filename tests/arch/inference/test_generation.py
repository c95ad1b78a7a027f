"""Hugging Face's `generate` on a beacon model against the argmax of one forward pass per token."""

from itertools import product

import pytest
import torch
from torch import Tensor

from beacon_lit import BeaconConfig, BeaconLM
from tests.arch.tiny import FAMILIES, OTHERS, tiny, tokens

BEACON = BeaconConfig(window=8, ratios=4, sink=2, overlap=3, placement="interleave")
NEW = 12  # crosses a window's border


def greedy(lm: BeaconLM, ids: Tensor, **options: object) -> Tensor:
    """(1, L) -> (1, L + NEW): the most likely token, again and again."""
    for _ in range(NEW):
        ids = torch.cat([ids, lm(ids, **options).logits[:, -1:].argmax(-1)], 1)
    return ids


OPTIONS = [{}, {"unfinished": "beacons"}, {"ratios": 2}, {"ratios": [2, 0, "drop", 4, 2]}]


@pytest.mark.parametrize(("family", "options"), [*product(FAMILIES, OPTIONS), *product(OTHERS, OPTIONS[-1:])], ids=str)
@torch.no_grad()
def test_greedy(family: str, options: dict[str, object]) -> None:
    lm, ids = tiny(family, BEACON).eval(), tokens(1, 19)
    actual = lm.generate(ids, max_new_tokens=NEW, do_sample=False, eos_token_id=None, **options)
    assert torch.equal(actual, greedy(lm, ids, **options))


@torch.no_grad()
def test_left_padded_prompts_are_each_their_own() -> None:
    lm, ids = tiny("qwen2", BEACON, dtype=torch.float64).eval(), tokens(2, 19)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    actual = lm.generate(
        ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert torch.equal(actual[0, 7:], greedy(lm, ids[:1, 7:])[0])
    assert torch.equal(actual[1], greedy(lm, ids[1:])[0])


@torch.no_grad()
def test_generation_stops_at_eos() -> None:
    lm, ids = tiny("qwen2", BEACON).eval(), tokens(1, 19)
    expected = greedy(lm, ids)
    stop = int(expected[0, 19 + 3])
    first = expected[0, 19:].tolist().index(stop)
    actual = lm.generate(ids, max_new_tokens=NEW, do_sample=False, eos_token_id=stop)
    assert torch.equal(actual, expected[:, : 19 + first + 1])


@torch.no_grad()
def test_a_prompt_within_a_window_is_continued_as_by_the_backbone() -> None:
    lm, ids = tiny("qwen2", BeaconConfig(window=32, ratios=4, placement="interleave")).eval(), tokens(1, 10)
    expected = ids
    for _ in range(NEW):
        expected = torch.cat([expected, lm.dense(expected).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(lm.generate(ids, max_new_tokens=NEW, do_sample=False, eos_token_id=None), expected)


def test_generation_in_eval_wants_a_ratio() -> None:
    lm = tiny("qwen2", BeaconConfig(window=8, ratios=(2, 4), placement="interleave")).eval()
    with pytest.raises(ValueError, match="pass ratios="):
        lm.generate(tokens(1, 19), max_new_tokens=1, do_sample=False)
