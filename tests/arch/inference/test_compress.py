"""Text is read in chunks of a few windows: every row as if alone, and no interruption loses what was read."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from beacon_lit import BeaconCache, BeaconLM
from beacon_lit.arch import Ratio, Ratios
from beacon_lit.arch.plan.layout import Layout
from tests.arch.caches import assert_same, assert_unchanged, model, padded, snapshot
from tests.arch.tiny import FAMILIES, examples, tokens

CHOICES = st.sampled_from([1, 2, 4, 8, 0, "drop"])
MODES = ("raw", "beacons")


@dataclass(frozen=True)
class Reading:
    """Texts of some rows, the ratios of their windows (of each row, or None), and a head to keep."""

    texts: tuple[Tensor, ...]
    ratios: list[list[Ratio]] | None
    skip: int

    def ratios_of(self, row: int) -> list[Ratio] | None:
        return None if self.ratios is None else self.ratios[row]


@st.composite
def readings(draw: st.DrawFn, rows: int | None = None, skip: int = 0) -> Reading:
    """Up to 11 rows, most of them short, up to ten windows of 8."""
    lengths = st.integers(1, 20) | st.integers(1, 80)
    drawn = draw(st.lists(lengths, min_size=rows or 1, max_size=rows or 11))
    texts = tuple(tokens(max(length, skip), seed=draw(st.integers(0, 99))) for length in drawn)
    windows = st.lists(CHOICES, min_size=12, max_size=12)
    ratios = draw(st.none() | st.lists(windows, min_size=len(texts), max_size=len(texts)))
    return Reading(texts, ratios, skip)


@pytest.mark.parametrize("unfinished", MODES)
@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@examples(4)
@torch.no_grad()
def test_every_row_is_read_as_if_alone(family: str, unfinished: str, data: st.DataObject) -> None:
    placement = data.draw(st.sampled_from(["interleave", "append", "step-expansion"]))
    lm = model(family, placement, data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4)), unfinished)
    first = data.draw(readings(skip=data.draw(st.sampled_from([0, 0, 5, 8, 19]))))
    second = data.draw(readings(len(first.texts)))
    cache = None
    for reading in (first, second):  # the second starts at any places of the rows' windows
        ids, mask = padded(reading.texts, left=data.draw(st.booleans()))
        cache = lm.compress(ids, mask, cache, reading.ratios, reading.skip)
    for row, texts in enumerate(zip(first.texts, second.texts, strict=True)):
        own = lm.compress(texts[0][None], None, None, first.ratios_of(row), first.skip)
        assert_same(cache.select([row]), lm.compress(texts[1][None], None, own, second.ratios_of(row)))


@pytest.mark.parametrize("unfinished", MODES)
@torch.no_grad()
def test_adapt_chooses_for_every_row_as_if_alone(unfinished: str) -> None:
    settings = {"ratios": (2, 4, 8), "ratio_policy": "adapt-5", "unfinished": unfinished}
    lm = model("llama", sink=0, overlap=0, positions=64, **settings)
    texts = [tokens(length, seed=length) for length in (5, 130, 90, 200, 8, 60, 250, 1, 111, 30)]
    for total in (None, 260):
        cache = lm.compress(*padded(texts), total_length=total)
        adapted = {row.adapted for row in cache.rows if row.windows}
        assert adapted == ({8} if total else {2, 4, 8})
        for row, text in enumerate(texts):
            assert_same(cache.select([row]), lm.compress(text[None], total_length=total))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many windows run in each pass of any model."""
    counts: list[int] = []
    hidden = BeaconLM.run

    def counted(self: BeaconLM, ids: Tensor, layouts: Sequence[Layout], *arguments: Any) -> Any:
        counts.append(len(layouts[0].lengths))
        return hidden(self, ids, layouts, *arguments)

    monkeypatch.setattr(BeaconLM, "run", counted)
    return counts


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 11, 20])
@torch.no_grad()
def test_a_pass_runs_no_more_than_eight_windows(rows: int, passes: list[int]) -> None:
    lm, texts = model(), [tokens(10 + 50 * (row % 3), seed=row) for row in range(rows)]
    cache = lm.compress(*padded(texts))
    assert max(passes) <= 8
    assert sum(passes) >= sum(-(-len(text) // 8) for text in texts)
    passes.clear()
    lm.compress(tokens(rows, 50), cache=cache)
    assert max(passes) <= 8
    passes.clear()
    lm.generate(tokens(rows, 90), max_new_tokens=1, do_sample=False)
    assert max(passes[:-1]) <= 8 and len(passes) > 1


@torch.no_grad()
def test_full_windows_run_again_beside_the_new_ones(passes: list[int]) -> None:
    lm = model()
    cache = lm.compress(tokens(8, 16))  # in each row a full window is open; it closes with the next token
    passes.clear()
    lm.compress(tokens(8, 50), cache=cache)
    assert passes[0] == 16 and max(passes[1:]) <= 8


@torch.no_grad()
def test_progress_rises_to_one() -> None:
    lm, texts = model(), [tokens(length, seed=length) for length in (150, 3, 70)]
    told: list[tuple[int, float]] = []
    cache = lm.compress(*padded(texts), progress=lambda so_far, share: told.append((read_of(so_far), share)))
    shares = [share for _, share in told]
    assert len(told) == 5 and shares == sorted(set(shares)) and shares[0] > 0 and shares[-1] == 1
    assert all(share == pytest.approx(count / 223) for count, share in told)
    assert read_of(cache) == 223


def read_of(cache: BeaconCache) -> int:
    """Tokens of all rows."""
    return sum(row.seen_tokens for row in cache.rows)


def rest_of(
    lm: BeaconLM, texts: Sequence[Tensor], cache: BeaconCache, before: BeaconCache | None, ratios: Ratios | None
) -> BeaconCache:
    """Read what an interruption left of the texts."""
    starts = [
        row.seen_tokens - (0 if before is None else before.rows[i].seen_tokens) for i, row in enumerate(cache.rows)
    ]
    rows = [row for row, text in enumerate(texts) if starts[row] < len(text)]
    if isinstance(ratios, list):
        closed = [row.windows - (0 if before is None else before.rows[i].windows) for i, row in enumerate(cache.rows)]
        ratios = [ratios[row][closed[row] :] for row in rows]
    ids, mask = padded([texts[row][starts[row] :] for row in rows])
    return cache.put(rows, lm.compress(ids, mask, cache.select(rows), ratios))


def interrupt_progress(patch: pytest.MonkeyPatch, after: int, error: BaseException) -> dict[str, Any]:
    """A progress callback that fails when it is called for the `after`-th time."""
    calls = []

    def progress(cache: BeaconCache, share: float) -> None:
        calls.append(share)
        if len(calls) == after:
            raise error

    return {"progress": progress}


def interrupt_model(patch: pytest.MonkeyPatch, after: int, error: BaseException) -> dict[str, Any]:
    """A last layer that fails in the `after`-th pass."""
    hidden, calls = BeaconLM.run, []

    def failing(self: BeaconLM, *arguments: Any) -> Any:
        calls.append(hidden(self, *arguments))
        if len(calls) == after:
            raise error
        return calls[-1]

    patch.setattr(BeaconLM, "run", failing)
    return {}


@pytest.mark.parametrize("from_cache", [False, True])
@pytest.mark.parametrize(
    "ratios", [None, 4, [[2, 4, 8, 0, "drop"] * 5, [4] * 20, [8, 2] * 10]], ids=["policy", "4", "rows"]
)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")], ids=repr)
@pytest.mark.parametrize("interrupt", [interrupt_progress, interrupt_model])
@torch.no_grad()
def test_an_interruption_loses_nothing(interrupt: Any, error: BaseException, ratios: Any, from_cache: bool) -> None:
    lm, texts = model("qwen3"), [tokens(length, seed=length) for length in (130, 20, 60)]
    before = lm.compress(*padded([tokens(length) for length in (3, 8, 20)])) if from_cache else None
    ids, mask = padded(texts)
    whole = lm.compress(ids, mask, before, ratios)
    for after in (1, 2, 4):
        failure = type(error)(*error.args)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(type(error)) as caught:
            lm.compress(ids, mask, before, ratios, **interrupt(patch, after, failure))
        held = caught.value.cache
        state = snapshot(held)
        assert_same(rest_of(lm, texts, held, before, ratios), whole)
        assert_unchanged(held, state)


@torch.no_grad()
def test_an_interrupted_prompt_of_a_generation_is_handed_over_too() -> None:
    lm, ids = model(), tokens(1, 200)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt) as caught:
        interrupt_model(patch, 3, KeyboardInterrupt())
        lm.generate(ids, max_new_tokens=5, do_sample=False)
    assert_same(lm.compress(ids[:, 128:], cache=caught.value.cache), lm.compress(ids))


@torch.no_grad()
def test_going_on_with_ratios_of_other_windows_shows() -> None:
    lm, ids, ratios = model(), tokens(1, 130), [2, 4, 8] * 6
    whole, half = lm.compress(ids, ratios=ratios), lm.compress(ids[:, :65], ratios=ratios)
    assert_same(lm.compress(ids[:, 65:], cache=half, ratios=ratios[8:]), whole)
    with pytest.raises(AssertionError):
        assert_same(lm.compress(ids[:, 65:], cache=half, ratios=ratios), whole)


@pytest.mark.parametrize(("chunk_tokens", "most"), [(None, 64), (1, 8), (8, 8), (23, 16), (1000, 64)])
def test_a_chunk_has_few_tokens_where_that_is_asked_for(chunk_tokens: int | None, most: int) -> None:
    """At least a window, and at most as many windows as without a limit."""
    lm, ids = model("llama", "select"), tokens(1, 150)
    states = list(lm.compress_iter(ids, ratios=2, chunk_tokens=chunk_tokens))
    ends = [0, *(cache.seen_tokens for cache, _ in states)]
    assert max(end - start for start, end in pairwise(ends)) == most
    assert_same(states[-1][0], lm.compress(ids, ratios=2))
