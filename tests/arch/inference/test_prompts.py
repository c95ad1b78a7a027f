"""Prompts read in groups, and prompts of one token that decoding reads, answer as prompts that are read at once."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from beacon_lit import BeaconLM
from beacon_lit.arch.inference.prompts import Prompts
from tests.arch.caches import assert_same, assert_unchanged, model, padded, snapshot
from tests.arch.tiny import VOCABULARY, assert_close, tokens
from tests.arch.ways import by_calls

GREEDY: dict[str, Any] = {
    "max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0,
    "return_dict_in_generate": True, "output_logits": True,
}  # fmt: skip
LENGTHS = (17, 9, 40, 3, 90)  # the last token opens a window in the first two, and is in the middle of one in others
SELECT = {"placement": "select", "params": ("k", "v")}
SETTINGS = [
    SELECT,
    SELECT | {"head_budgets": ((1.5, 0.5), (1, 1))},
    SELECT | {"ratio_policy": "adapt-0", "positions": 40},
    {"placement": "interleave"},
    {"placement": "interleave", "unfinished": "beacons"},
]
MODELS = pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))


def different(*lengths: int) -> list[Tensor]:
    """Texts in which no token comes twice: rounding selects one of two equal tokens. None is padding."""
    seeds = (torch.Generator().manual_seed(row) for row in range(len(lengths)))
    return [1 + torch.randperm(VOCABULARY - 1, generator=seed)[:n] for seed, n in zip(seeds, lengths, strict=True)]


def alone(lm: BeaconLM, texts: list[Tensor], **options: Any) -> list[Any]:
    """What each text, read as a whole and by itself, is continued with."""
    return [lm.generate(text[None], **{**GREEDY, **options}) for text in texts]


@MODELS
@pytest.mark.parametrize("beams", [1, 3])
def test_one_token_after_a_cache(settings: dict[str, Any], beams: int) -> None:
    lm, texts = model("llama", **settings), different(*LENGTHS)
    totals = [length + 12 for length in LENGTHS]
    cache = lm.compress(*padded([text[:-1] for text in texts]), total_length=totals)
    before, last = snapshot(cache), torch.stack([text[-1:] for text in texts])
    found = lm.generate(last, cache=cache, total_length=totals, num_beams=beams, **GREEDY)
    assert_unchanged(cache, before)
    for row, expected in enumerate(alone(lm, texts, num_beams=beams)):
        assert torch.equal(found.sequences[row, 1:], expected.sequences[0, LENGTHS[row] :])
        if beams == 1:
            assert_same(found.past_key_values.select([row]), expected.past_key_values)
            for logits, wanted in zip(found.logits, expected.logits, strict=True):
                assert_close(logits[row], wanted[0], 1e-6)


@pytest.mark.parametrize("length", [None, 3, 8])
@pytest.mark.parametrize(
    ("settings", "ratios"),
    [(SELECT, 8), (SELECT, [[8, 4], [2, 8]]), (SELECT | {"ratio_policy": "adapt-0", "positions": 40}, None)],
)
def test_one_token_leaves_what_a_call_notes(settings: dict[str, Any], ratios: Any, length: int | None) -> None:
    """The ratio of the open window, which closes with it in a later call, and what the policy remembers."""
    lm = model("llama", **settings)
    cache = None if length is None else lm.compress(tokens(2, length))
    options = {**GREEDY, "max_new_tokens": 3, "ratios": ratios, "cache": cache}
    found = lm.generate(tokens(2, 1), **options)
    with by_calls():
        called = lm.generate(tokens(2, 1), **options)
    assert any(row.ratios or row.adapted for row in called.past_key_values.rows)
    assert_same(found.past_key_values, called.past_key_values)


@MODELS
def test_prompts_of_many_lengths(settings: dict[str, Any]) -> None:
    lm, texts = model("llama", **settings), different(*LENGTHS, 1)
    ids, mask = padded(texts)
    found = lm.generate(ids, attention_mask=mask, **GREEDY)
    for row, (text, expected) in enumerate(zip(texts, alone(lm, texts), strict=True)):
        assert torch.equal(found.sequences[row, 90:], expected.sequences[0, len(text) :])
        assert_close(found.logits[0][row], expected.logits[0][0], 1e-6)


@MODELS
@pytest.mark.parametrize("lengths", [(1, 1, 1), (5, 2, 1), (60, 3, 40)], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 2}, {"ratios": [[8, 4] * 6, [4, 4] * 6, [2, 8] * 6]}],
    ids=["greedy", "beams", "ratios"],
)
def test_prompts_continue_a_cache_of_one_row(
    settings: dict[str, Any], lengths: tuple[int, ...], options: dict[str, Any]
) -> None:
    """As from a copy of the row for each."""
    lm = model("llama", **settings)
    cache, (ids, mask) = lm.compress(tokens(1, 13)), padded(different(*lengths))
    before = snapshot(cache)
    found = lm.generate(ids, attention_mask=mask, cache=cache, **GREEDY, **options)
    assert_unchanged(cache, before)
    expected = lm.generate(ids, attention_mask=mask, cache=cache.select([0, 0, 0]), **GREEDY, **options)
    assert torch.equal(found.sequences, expected.sequences)
    if "num_beams" not in options:
        assert len({tuple(row) for row in found.sequences[:, lengths[0] :].tolist()}) == 3
        assert_same(found.past_key_values, expected.past_key_values)


@pytest.mark.parametrize("passed", [{}, {"inputs": tokens(2, 4), "input_ids": None}, {"input_ids": tokens(2, 4)}])
def test_prompts_continue_as_many_rows_or_one(passed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """However they are passed; without any, Hugging Face makes one prompt of one token."""
    lm = model(**SELECT)
    cache, count = lm.compress(tokens(3, 13)), 2 if passed else 1
    assert len(lm.generate(cache=cache.select([1]), bos_token_id=1, **passed, **GREEDY).sequences) == count
    monkeypatch.setattr(BeaconLM, "run_layers", None)
    with pytest.raises(ValueError, match=f"the cache has 3 rows, input_ids {count}; allowed: the same, or 1 row"):
        lm.generate(cache=cache, bos_token_id=1, **passed, **GREEDY)


def groups(lm: BeaconLM, lengths: tuple[int, ...], known: tuple[int, ...]) -> list[list[int]]:
    cache = lm.compress(*padded([tokens(count) for count in known]))
    places = range(len(lengths)) if len(known) > 1 else [0] * len(lengths)
    return list(Prompts(lm, torch.zeros(len(lengths), 99), None, lengths, cache, places, None, None).groups())


def test_groups_have_no_more_slots_and_new_tokens_than_a_chunk_has_tokens() -> None:
    """A chunk has 64 tokens; tokens that are not compressed take as many slots."""
    lm = model(sink=0, overlap=0, eval_ratio=0, **SELECT)
    assert groups(lm, (30, 1, 1, 1), (32, 1, 1, 32)) == [[0, 1], [2, 3]]  # 62 and 2; 2 and 33
    assert groups(lm, (31, 1, 1, 70, 1), (32, 1, 62, 1, 1)) == [[0], [1], [2], [3], [4]]  # 63, 2, 63, 71, 2
    assert groups(lm, (1, 1, 1), (1, 1, 1)) == [[0, 1, 2]]
    assert groups(lm, (1, 1, 1), (31,)) == [[0, 1], [2]]  # 32 each, of one row
    lm.train()
    assert groups(lm, (90, 90), (32, 32)) == [[0, 1]]


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (torch.tensor([[97], [3]]), {}, "input_ids has the token id 97"),
        (tokens(2, 1), {"ratios": 3}, "3"),
        (tokens(2, 1), {"ratios": 0}, "row 1 .*max_position_embeddings"),
        (tokens(2, 1), {"unfinished": "beacons"}, "unfinished='beacons'"),
    ],
)
def test_one_token_is_refused_before_anything_runs(
    ids: Tensor, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = model(positions=24, sink=0, overlap=0, **SELECT)
    cache = lm.compress(*padded([tokens(5), tokens(24)]), ratios=0)
    monkeypatch.setattr(BeaconLM, "run_layers", None)
    with pytest.raises(ValueError, match=message):
        lm.generate(ids, cache=cache, **GREEDY | options)


def test_another_models_cache_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model(**SELECT)
    cache = lm.compress(tokens(1, 20))
    lm.beacon = replace(lm.beacon, sink=4)
    monkeypatch.setattr(BeaconLM, "run_layers", None)
    with pytest.raises(ValueError, match="sink"):
        lm.generate(tokens(1, 1), cache=cache, **GREEDY)


@torch.no_grad()
def test_in_training_mode_one_token_draws_ratios_as_a_call_does() -> None:
    """One for each prompt, whatever the number of its copies; the next generation draws others."""
    lm = model(ratios=(1, 2, 4, 8), ratio_policy="random", **SELECT)
    cache = lm.compress(tokens(6, 8))
    lm.train()
    draw = lm.draw
    called = lm(tokens(6, 1), cache=cache).cache
    drawn = [row.beacon_slots for row in called.rows]
    assert len(set(drawn)) > 1
    lm.draw = draw
    options = GREEDY | {"max_new_tokens": 2, "num_return_sequences": 2, "do_sample": True}
    rows = lm.generate(tokens(6, 1), cache=cache, **options).past_key_values.rows
    assert [row.beacon_slots for row in rows] == [slots for slots in drawn for _ in range(2)]
    assert lm.draw == draw.next()
