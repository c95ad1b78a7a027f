"""What is rolled back was never read: not by a call, not by a generation, not before a cache was saved."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from beacon_lit import BeaconCache, BeaconLM
from tests.arch.caches import assert_goes_on_alike, assert_same, assert_unchanged, model, padded, snapshot
from tests.arch.tiny import ALL, assert_close, examples, tokens

MODES = ("raw", "beacons")
PLACEMENTS = st.sampled_from(["interleave", "append", "step-expansion"])
RATIOS = st.none() | st.sampled_from([1, 2, 4, 8, 0, "drop"])
GREEDY = {"do_sample": False, "eos_token_id": None}


def read_in_a_call(lm: BeaconLM, cache: BeaconCache, ids: Tensor, ratio: int | str | None, path: Path) -> BeaconCache:
    return lm(ids, labels=ids, cache=cache, ratios=ratio).cache


def read_token_by_token(
    lm: BeaconLM, cache: BeaconCache, ids: Tensor, ratio: int | str | None, path: Path
) -> BeaconCache:
    for column in ids.split(1, 1):
        cache = lm(column, cache=cache, ratios=ratio).cache
    return cache


def read_and_save(lm: BeaconLM, cache: BeaconCache, ids: Tensor, ratio: int | str | None, path: Path) -> BeaconCache:
    lm.compress(ids, cache=cache, ratios=ratio).save(path / "cache")
    return BeaconCache.load(path / "cache")


def generate(lm: BeaconLM, cache: BeaconCache, ids: Tensor, ratio: int | str | None, path: Path) -> BeaconCache:
    """Reads the first of the ids, then as many of its own."""
    new = {"max_new_tokens": ids.shape[1], "return_dict_in_generate": True, **GREEDY}
    return lm.generate(ids[:, :1], cache=cache, ratios=ratio, **new).past_key_values


@pytest.mark.parametrize("read", [read_in_a_call, read_token_by_token, read_and_save, generate])
@pytest.mark.parametrize("unfinished", MODES)
@given(data=st.data())
@examples(6)
@torch.no_grad()
def test_what_is_rolled_back_was_never_read(
    unfinished: str, read: Callable[..., BeaconCache], tmp_path: Path, data: st.DataObject
) -> None:
    lm = model(data.draw(st.sampled_from(ALL)), data.draw(PLACEMENTS), 2, data.draw(st.integers(0, 4)), unfinished)
    texts = [tokens(data.draw(st.integers(1, 25)), seed=seed) for seed in range(data.draw(st.integers(1, 3)))]
    ratio = data.draw(RATIOS)
    cache = lm.compress(*padded(texts), ratios=ratio)
    room = min(row.capacity - len(row.open_ids) for row in cache.rows) - (1 if unfinished == "beacons" else 0)
    assume(room > 0)
    ids = tokens(len(texts), data.draw(st.integers(1, room)), seed=7)
    kept = data.draw(st.integers(0, ids.shape[1]))
    further = read(lm, cache, ids, ratio, tmp_path)
    before = snapshot(further)
    back = further.rollback(ids.shape[1] - kept)
    assert_unchanged(further, before)
    if read is generate:
        fewer = further.rollback(ids.shape[1]) if kept == 0 else generate(lm, cache, ids[:, :kept], ratio, tmp_path)
    else:
        fewer = read(lm, cache, ids[:, :kept], ratio, tmp_path) if kept else cache
    assert_same(back, fewer)
    assert_goes_on_alike(lm, back, fewer)
    least = min(len(row.open_ids) for row in further.rows)
    for tokens_back in (-1, least + 1):
        with pytest.raises(ValueError, match=f"tokens={tokens_back} is not allowed; allowed: 0 to {least}"):
            further.rollback(tokens_back)


@pytest.mark.parametrize("skip", [0, 5])
@pytest.mark.parametrize("unfinished", MODES)
@torch.no_grad()
def test_from_the_border_a_sequence_goes_on_as_if_uncut(unfinished: str, skip: int) -> None:
    lm, ids = model("mistral", unfinished=unfinished), tokens(2, skip + 40)
    whole = lm.compress(ids[:, : skip + 35], ratios=4, skip=skip)
    for extra in (1, 3):
        border = lm.compress(ids[:, : skip + 16 + extra], ratios=4, skip=skip).rollback(extra)
        assert [row.open_ids for row in border.rows] == [(), ()] and border.seen_tokens == skip + 16
        assert_same(lm.compress(ids[:, skip + 16 : skip + 35], cache=border, ratios=4), whole)
        out = lm(ids[:, skip + 16 :], cache=border, ratios=4)
        uncut = lm(ids[:, skip + 35 :], cache=whole, ratios=4)
        assert_close(out.logits[:, -5:], uncut.logits, 1e-8)
        assert_same(out.cache, uncut.cache)


@torch.no_grad()
def test_a_first_window_is_rolled_back_to_nothing() -> None:
    lm, ids = model("llama"), tokens(2, 20)
    back = lm(ids[:, :6], use_cache=True).cache.rollback(6)
    out, whole = lm(ids, labels=ids, cache=back), lm(ids, labels=ids, use_cache=True)
    assert torch.equal(out.logits, whole.logits) and torch.equal(out.token_loss, whole.token_loss)
    assert_same(out.cache, whole.cache)


def stale_hidden(back: BeaconCache, further: BeaconCache) -> BeaconCache:
    """Each row's last hidden states are those of the tokens that were rolled back."""
    return replace(back, hidden=further.hidden[-len(back.hidden) :])


def stale_window(back: BeaconCache, further: BeaconCache) -> BeaconCache:
    layers = tuple(
        replace(now, open_k=then.open_k[-len(now.open_k) :])
        for now, then in zip(back.layers, further.layers, strict=True)
    )
    return replace(back, layers=layers)


def stale_ids(back: BeaconCache, further: BeaconCache) -> BeaconCache:
    """The open window will run again with the tokens that were rolled back."""
    row = back.rows[0]
    return replace(back, rows=(replace(row, open_ids=further.rows[0].open_ids[-len(row.open_ids) :]),))


@pytest.mark.parametrize("stale", [stale_hidden, stale_window, stale_ids])
@torch.no_grad()
def test_a_stale_rollback_shows(stale: Callable[[BeaconCache, BeaconCache], BeaconCache]) -> None:
    lm = model("qwen2")
    cache = lm.compress(tokens(1, 18))
    further = lm(tokens(1, 4), cache=cache).cache
    assert_goes_on_alike(lm, further.rollback(4), cache)
    with pytest.raises(AssertionError):
        assert_goes_on_alike(lm, stale(further.rollback(4), further), cache)
