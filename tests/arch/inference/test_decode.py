"""Decoding in static buffers equals decoding by calls and reading everything anew, over any borders of windows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import StoppingCriteria

from beacon_lit import BeaconCache, BeaconLM
from beacon_lit.arch import Ratios
from beacon_lit.arch.inference import static
from beacon_lit.arch.inference.decode import Decoding
from beacon_lit.arch.inference.decode_static import StaticDecoding
from beacon_lit.arch.inference.static import Buffers, StaticStep
from tests.arch.caches import assert_same, model, padded
from tests.arch.tiny import FAMILIES, OTHERS, VOCABULARY, assert_close, examples, tokens
from tests.arch.ways import anew, by_calls, small_steps

GREEDY = {"do_sample": False, "pad_token_id": 0, "return_dict_in_generate": True, "output_logits": True}
LOGITS = 1e-6  # `generate` hands out float32
CHOICES = st.sampled_from([1, 2, 4, 8, 0, "drop"])


@dataclass(frozen=True)
class Request:
    """Prompts and what `generate` is asked to do with them."""

    lengths: tuple[int, ...]
    ratios: Ratios | None
    new: int
    beams: int


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Up to three rows of up to four windows, and an answer of up to two."""
    lengths = tuple(draw(st.lists(st.integers(2, 30), min_size=1, max_size=3)))
    windows = st.lists(CHOICES, min_size=7, max_size=7)
    ratios = draw(st.none() | CHOICES | windows | st.tuples(*[windows] * len(lengths)).map(list))
    return Request(lengths, ratios, draw(st.integers(2, 18)), draw(st.sampled_from([1, 1, 1, 3])))


def generate(lm: BeaconLM, texts: Sequence[Tensor], new: int, **options: Any) -> Any:
    """Greedy, left-padded; no row ends before the others unless told to."""
    ids, mask = padded(texts)
    return lm.generate(ids, attention_mask=mask, max_new_tokens=new, **{"eos_token_id": None, **GREEDY, **options})


def texts_of(lengths: Sequence[int]) -> list[Tensor]:
    return [tokens(length, seed=row) for row, length in enumerate(lengths)]


@pytest.mark.parametrize("unfinished", ["raw", "beacons"])
@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@examples(4)
def test_three_ways_are_one(family: str, unfinished: str, data: st.DataObject) -> None:
    assert_three_ways_are_one(family, unfinished, data)


@pytest.mark.parametrize("family", OTHERS)
@given(data=st.data())
@examples(3)
def test_other_families(family: str, data: st.DataObject) -> None:
    assert_three_ways_are_one(family, "raw", data)


def assert_three_ways_are_one(family: str, unfinished: str, data: st.DataObject) -> None:
    placement = data.draw(st.sampled_from(["interleave", "append", "step-expansion"]))
    lm = model(family, placement, data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4)), unfinished)
    assert_ways_are_one(lm, data.draw(requests()))


def assert_ways_are_one(lm: BeaconLM, asked: Request) -> None:
    """A generation in static buffers equals one by calls, and reading everything anew in each step."""
    texts, options = texts_of(asked.lengths), {"ratios": asked.ratios, "num_beams": asked.beams}
    with small_steps(windows=2, slots=8):
        found = generate(lm, texts, asked.new, **options)
        with by_calls():
            called = generate(lm, texts, asked.new, **options)
    with anew():
        expected = generate(lm, texts, asked.new, **options)
    assert torch.equal(found.sequences, expected.sequences) and torch.equal(called.sequences, expected.sequences)
    for step, wanted in enumerate(expected.logits):
        assert_close(found.logits[step], wanted, LOGITS, f"logits of step {step}")
        assert_close(called.logits[step], wanted, LOGITS, f"logits of step {step}, by calls")
    if asked.beams == 1:
        assert_same(found.past_key_values, called.past_key_values)


@pytest.mark.parametrize("ratios", [None, 4])
@pytest.mark.parametrize("unfinished", ["raw", "beacons"])
@torch.no_grad()
def test_the_cache_at_the_end_is_that_of_reading_all_but_the_last_token(unfinished: str, ratios: int | None) -> None:
    lm, texts = model("llama", unfinished=unfinished), texts_of((3, 21, 90))
    found = generate(lm, texts, 20, ratios=ratios)
    for row, text in enumerate(texts):
        read = torch.cat([text, found.sequences[row, 90:-1]])
        assert_same(found.past_key_values.select([row]), lm.compress(read[None], ratios=ratios))


@pytest.mark.parametrize("unfinished", ["raw", "beacons"])
@torch.no_grad()
def test_a_row_that_ends_reads_nothing_more(unfinished: str) -> None:
    lm, texts = model("qwen3", unfinished=unfinished), texts_of((5, 16, 23, 12))
    whole = generate(lm, texts, 30)
    stops = list(range(4, VOCABULARY, 10))  # the padding that follows is not among them
    found = generate(lm, texts, 30, eos_token_id=stops)
    ends = []
    for row, text in enumerate(texts):
        answer = whole.sequences[row, 23:].tolist()
        count = next((i + 1 for i, token in enumerate(answer) if token in stops), len(answer))
        kept, rest = found.sequences[row, 23:].split([count, found.sequences.shape[1] - 23 - count])
        assert kept.tolist() == answer[:count] and not rest.any()
        read = torch.cat([text, kept[:-1]])
        assert_same(found.past_key_values.select([row]), lm.compress(read[None]))
        ends.append(count)
    assert len(set(ends)) == 4, "the rows should end at different steps"


class FirstRowEnds(StoppingCriteria):
    """The first row ends with its first new token, the others go on."""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.arange(len(input_ids)) == 0


@pytest.mark.parametrize("unfinished", ["raw", "beacons"])
@torch.no_grad()
def test_positions_run_out_only_for_rows_that_read(unfinished: str) -> None:
    lm = model("llama", positions=29, sink=0, unfinished=unfinished)
    texts = texts_of((29, 6))  # kept raw, the first takes every slot there is
    found = generate(lm, texts, 20, ratios=0, stopping_criteria=[FirstRowEnds()])
    assert [row.seen_tokens for row in found.past_key_values.rows] == [29, 25]
    with pytest.raises(ValueError, match=r"row 0 .*29 .*max_position_embeddings"):
        generate(lm, texts, 3, ratios=0)  # within the open window
    with pytest.raises(ValueError, match=r"row 0 .*29 .*max_position_embeddings"):  # when a window closes
        generate(lm, texts[1:], 60, ratios=2)


@pytest.mark.parametrize("length", [5, 30, 100])
def test_a_random_policy_is_refused_before_anything_runs(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, text = model("llama", ratio_policy="random"), tokens(1, length)
    cache = lm.compress(tokens(1, 4))
    monkeypatch.setattr(BeaconLM, "run", None)
    for options in ({}, {"cache": cache}):
        with pytest.raises(ValueError, match=r"ratio_policy='random'.*eval_ratio"):
            lm.generate(text, max_new_tokens=25, **options)


@pytest.mark.parametrize("way", [StaticDecoding, Decoding])
@torch.no_grad()
def test_rows_go_on_from_where_any_others_stand(way: type[Decoding]) -> None:
    lm, texts = model("llama"), texts_of((14, 3, 7))
    cache, more, ratios = lm.compress(*padded(texts)), tokens(3, 12, seed=9), [[2, 4, 8], [4, 2, 4], [8, 8, 2]]
    decoding = way(lm, cache, [list(row) for row in ratios], None, None)
    for column in more[:, :4].split(1, 1):  # the first row closes a window
        decoding.step(column)
    order = [2, 0, 0]
    decoding.reorder(torch.tensor(order))
    found = torch.cat([decoding.step(column) for column in more[:, 4:].split(1, 1)], 1)
    for place, row in enumerate(order):
        alone = way(lm, cache.select([row]), [list(ratios[row])], None, None)
        read = torch.cat([more[row, :4], more[place, 4:]])
        expected = torch.cat([alone.step(token.view(1, 1)) for token in read], 1)
        assert_close(found[place], expected[0, 4:], 1e-9)
        assert_same(decoding.cache().select([place]), alone.cache())


# Controls: with one thing wrong in the static buffers, the logits of the steps after it must differ.
def shifted_keys(patch: pytest.MonkeyPatch) -> None:
    load = Buffers.load

    def wrong(self: Buffers, place: int, cache: BeaconCache, row: int, known: int = 0) -> None:
        load(self, place, cache, row, known)
        self.keys[:, place] = self.keys[:, place].roll(1, 2)

    patch.setattr(Buffers, "load", wrong)


def shifted_values(patch: pytest.MonkeyPatch) -> None:
    load = Buffers.load

    def wrong(self: Buffers, place: int, cache: BeaconCache, row: int, known: int = 0) -> None:
        load(self, place, cache, row, known)
        self.values[:, place] = self.values[:, place].roll(1, 2)

    patch.setattr(Buffers, "load", wrong)


def shifted_step(patch: pytest.MonkeyPatch) -> None:
    attend = StaticStep.attend

    def wrong(self: StaticStep, *arguments: Any) -> Tensor:
        return attend(replace(self, slots=self.slots - 1), *arguments)

    patch.setattr(StaticStep, "attend", wrong)


def stale_memory(patch: pytest.MonkeyPatch) -> None:
    """The window's memory is not put into the buffers when it closes."""
    load = Buffers.load

    def wrong(self: Buffers, place: int, cache: BeaconCache, row: int, known: int = 0) -> None:
        load(self, place, cache, row, cache.rows[row].memory_slots if known else 0)

    patch.setattr(Buffers, "load", wrong)


def stale_window(patch: pytest.MonkeyPatch) -> None:
    """A row goes on in the window that has closed."""
    load = StaticDecoding._load

    def wrong(self: StaticDecoding, row: int, *arguments: Any) -> None:
        count = self.unlisted[row]
        load(self, row, *arguments)
        self.unlisted[row] = min(count, 1)

    patch.setattr(StaticDecoding, "_load", wrong)


@pytest.mark.parametrize("wrong", [shifted_keys, shifted_values, shifted_step, stale_memory, stale_window])
@torch.no_grad()
def test_a_wrong_buffer_shows(wrong: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model("mistral", sink=1, overlap=3)
    cache, ids = lm.compress(tokens(2, 19)), tokens(2, 14)
    right, called = logits_of(StaticDecoding, lm, cache, ids), logits_of(Decoding, lm, cache, ids)
    assert_close(right, called, 1e-9)
    wrong(monkeypatch)
    assert (logits_of(StaticDecoding, lm, cache, ids) - right).abs().max() > 1e-2


@torch.no_grad()
def test_a_cap_that_buffers_leave_out_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model("gemma2", sink=1, overlap=3)
    cache, ids = lm.compress(tokens(2, 19)), tokens(2, 14)
    right = logits_of(StaticDecoding, lm, cache, ids)
    assert_close(right, logits_of(Decoding, lm, cache, ids), 1e-9)
    attend = static.attend
    monkeypatch.setattr(static, "attend", lambda q, k, v, bias, scale, cap: attend(q, k, v, bias, scale))
    assert (logits_of(StaticDecoding, lm, cache, ids) - right).abs().max() > 0.1


def logits_of(way: type[Decoding], lm: BeaconLM, cache: BeaconCache, ids: Tensor) -> Tensor:
    """(B, L, V) logits after each of the ids."""
    decoding = way(lm, cache, None, None, None)
    return torch.cat([decoding.step(column) for column in ids.split(1, 1)], 1)
