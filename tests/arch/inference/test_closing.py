"""Where beacons are selected, windows close without a second reading, and leave what reading all at once leaves."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from beacon_lit import BeaconCache, BeaconLM
from beacon_lit.arch.inference import closing
from beacon_lit.arch.inference.decode import Decoding, remaining
from beacon_lit.arch.inference.decode_static import StaticDecoding
from beacon_lit.arch.inference.moving import Moving, Opened
from tests.arch.caches import assert_same, model, padded, tensors
from tests.arch.inference.test_decode import CHOICES, logits_of
from tests.arch.tiny import ALL, SLIDING, VOCABULARY, assert_close, examples, kinds, tokens

BUDGETS = ((2.25, 0.25), (0.5, 1.0))  # of the tiny models' two layers with two KV heads
WAYS = pytest.mark.parametrize("way", [StaticDecoding, Decoding])


def selecting(family: str = "qwen2", **settings: Any) -> BeaconLM:
    """A model with windows of 8, and shares for its heads if `head_budgets` are given."""
    backbone = kinds("mms", 5) if family in SLIDING else None
    return model(family, "select", backbone=backbone, **{"params": ("k", "v"), **settings})


def different(*lengths: int) -> list[Tensor]:
    """Texts in which no token comes twice. Equal tokens can have equal scores, of which rounding selects one."""
    seeds = (torch.Generator().manual_seed(row) for row in range(len(lengths)))
    return [torch.randperm(VOCABULARY, generator=seed)[:n] for seed, n in zip(seeds, lengths, strict=True)]


@pytest.mark.parametrize("family", ALL)
@given(data=st.data())
@examples(6)
@torch.no_grad()
def test_three_ways_are_one(family: str, data: st.DataObject) -> None:
    """In static buffers, by calls from cache to cache, and in one call: over several borders, at any mix of ratios."""
    settings = {
        "sink": st.integers(0, 4),
        "overlap": st.integers(0, 4),
        "head_budgets": st.sampled_from([None, BUDGETS]),
    }
    lm = selecting(family, **{name: data.draw(values) for name, values in settings.items()})
    lengths, steps = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=3)), data.draw(st.integers(1, 30))
    ratios = data.draw(st.none() | CHOICES | st.lists(CHOICES, min_size=8, max_size=8))
    whole = different(*(length + steps for length in lengths))
    cache = lm.compress(*padded([text[:-steps] for text in whole]), ratios=ratios)
    left = [remaining(ratios, row.windows) for row in cache.rows] if isinstance(ratios, list) else ratios
    ids = torch.stack([text[-steps:] for text in whole])
    for way in (StaticDecoding, Decoding):
        decoding = way(lm, cache, left if way is Decoding else copy.deepcopy(left), None, None)
        logits = torch.cat([decoding.step(column).clone() for column in ids.split(1, 1)], 1)
        for row, text in enumerate(whole):
            expected = lm(text[None], use_cache=True, ratios=ratios)
            assert_same(decoding.cache_of(row), expected.cache)
            assert_close(logits[row], expected.logits[0, -steps:], 1e-8)


def texts_before_a_border(lm: BeaconLM, ratio: int | str = 2) -> BeaconCache:
    """Three rows, of which the first two have full windows: the first of the text, and a later one."""
    return lm.compress(*padded([tokens(length, seed=length) for length in (8, 32, 21)]), ratios=ratio)


@pytest.mark.parametrize(
    ("ratio", "dtype"),
    [
        (1, torch.bfloat16),
        (2, torch.float32),
        (2, torch.bfloat16),
        (8, torch.float32),
        (0, torch.bfloat16),
        ("drop", torch.float32),
    ],
)
@pytest.mark.parametrize("settings", [{"sink": 0, "overlap": 0}, {"sink": 2, "overlap": 3}, {"head_budgets": BUDGETS}])
@pytest.mark.parametrize("family", ["qwen3", "smollm3", "olmo2", *SLIDING])
@torch.no_grad()
def test_buffers_close_windows_as_calls_do(
    family: str, settings: dict[str, Any], ratio: int | str, dtype: torch.dtype
) -> None:
    """Bit for bit, from the same open window."""
    lm = selecting(family, **settings).to(dtype)
    cache, ids = texts_before_a_border(lm, ratio), tokens(3, 1)
    after = []
    for way in (StaticDecoding, Decoding):
        decoding = way(lm, cache, ratio, None, None)
        decoding.step(ids)
        after.append(decoding.cache())
    one, two = after
    assert one.rows == two.rows and [row.windows for row in one.rows] == [1, 4, 2]
    found, expected = (tensors(each.rollback(1)) for each in after)
    for name, value in expected.items():
        if name != "hidden":
            assert torch.equal(found[name], value), name


@WAYS
@torch.no_grad()
def test_rows_are_reordered_replaced_and_read_out(way: type[Decoding]) -> None:
    """With open windows at any place; what a row does next depends on its own past alone."""
    lm = selecting(head_budgets=BUDGETS)
    texts = different(8, 32, 21)
    decoding, ids = way(lm, lm.compress(*padded(texts)), None, None, None), tokens(3, 25, seed=3)
    for column in ids[:, :5].split(1, 1):
        decoding.step(column)
    decoding.reorder(torch.tensor([1, 1, 0]))
    decoding.replace([0], lm.compress(texts[2][None]), [0])
    decoding.replace([2], decoding.cache_of(2).rollback(2), [0])
    pasts = [texts[2], torch.cat([texts[1], ids[1, :5]]), torch.cat([texts[0], ids[0, :3]])]
    for column in ids[:, 5:].split(1, 1):
        decoding.step(column)
    for row, past in enumerate(pasts):
        assert_same(decoding.cache_of(row), lm.compress(torch.cat([past, ids[row, 5:]])[None]))


def counts(lm: BeaconLM, work: Callable[[], object]) -> list[int]:
    """The numbers of tokens that layers run over, one after another."""
    seen: list[int] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1])) for layer in lm.model.layers
    ]
    work()
    for hook in hooks:
        hook.remove()
    return seen


def over_a_border(way: type[Decoding], lm: BeaconLM, cache: BeaconCache) -> Callable[[], None]:
    def work() -> None:
        decoding = way(lm, cache, 2, None, None)
        for column in tokens(3, 20).split(1, 1):
            decoding.step(column)
        assert min(row.windows for row in decoding.cache().rows) >= 3

    return work


@WAYS
@torch.no_grad()
def test_no_layer_reads_more_than_a_token_per_row(way: type[Decoding], tmp_path: Path) -> None:
    """Not at the first border after a text either, and not from a cache that was saved."""
    lm = selecting()
    cache = texts_before_a_border(lm)
    cache.save(tmp_path / "cache")
    for each in (cache, BeaconCache.load(tmp_path / "cache")):
        assert counts(lm, over_a_border(way, lm, each)) == [3] * 20 * len(lm.model.layers)
    inserting = model()
    assert max(counts(inserting, over_a_border(way, inserting, texts_before_a_border(inserting)))) > 3


@torch.no_grad()
def test_a_call_reads_new_tokens_alone() -> None:
    lm = selecting()
    cache = texts_before_a_border(lm)
    assert counts(lm, lambda: lm(tokens(3, 11), cache=cache)) == [33] * len(lm.model.layers)
    assert counts(lm, lambda: lm.compress(tokens(3, 11), cache=cache)) == [33] * len(lm.model.layers)


@torch.no_grad()
def test_rows_close_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number that fits the memory set aside for that makes no difference."""
    lm, ids = selecting(), tokens(3, 20)
    cache = lm.compress(tokens(3, 8))
    wanted = logits_of(StaticDecoding, lm, cache, ids)
    monkeypatch.setattr(closing, "AT_ONCE", 1)
    assert torch.equal(logits_of(StaticDecoding, lm, cache, ids), wanted)


# Controls: with one thing wrong in how windows close, the logits of later steps must differ.
def first_tokens(patch: pytest.MonkeyPatch) -> None:
    """Each head keeps the first tokens."""

    def wrong(k: Tensor, allowed: Tensor, counts: Tensor, most: int) -> Tensor:
        return torch.arange(most).expand(len(k), k.shape[2], -1)

    patch.setattr(closing, "best", wrong)


def unwritten_entries(patch: pytest.MonkeyPatch) -> None:
    """Tokens read one by one leave nothing to select from."""
    patch.setattr(Opened, "write", lambda *arguments: None)


def unprojected(patch: pytest.MonkeyPatch) -> None:
    """Beacons are what raw tokens are."""
    write = Opened.write
    patch.setattr(Opened, "write", lambda self, rows, k, own_k, own_v: write(self, rows, k, k, own_v))


def misplaced_window(patch: pytest.MonkeyPatch) -> None:
    """Loaded entries stand one place before those that are written."""
    opened = Moving.opened
    patch.setattr(Moving, "opened", lambda self, places: opened(self, places + 1))


def unmoved(patch: pytest.MonkeyPatch) -> None:
    """Sliding windows stay where they are."""
    patch.setattr(closing, "_slide", lambda *arguments: None)


CONTROLS = [first_tokens, unwritten_entries, unprojected, misplaced_window, unmoved]


@pytest.mark.parametrize("wrong", CONTROLS)
@torch.no_grad()
def test_a_wrong_closing_shows(wrong: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    lm = selecting("gemma3_text", overlap=3)
    cache, ids = lm.compress(tokens(2, 19)), tokens(2, 14)
    right, called = logits_of(StaticDecoding, lm, cache, ids), logits_of(Decoding, lm, cache, ids)
    assert_close(right, called, 1e-9)
    wrong(monkeypatch)
    assert (logits_of(StaticDecoding, lm, cache, ids) - right).abs().max() > 1e-2
