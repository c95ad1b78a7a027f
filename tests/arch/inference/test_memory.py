"""While a model decodes, keys and values are in the buffers and in the cache that the caller gave, and nowhere else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from beacon_lit import BeaconCache, BeaconLM
from beacon_lit.arch import RowDecoding
from beacon_lit.arch.inference import closing
from beacon_lit.arch.inference import generate as generation
from beacon_lit.arch.inference.decode_static import StaticDecoding
from beacon_lit.arch.inference.prompts import Prompts
from beacon_lit.arch.inference.static import CHUNK, with_room
from tests.arch.caches import model
from tests.arch.memory import Memory
from tests.arch.tiny import tokens
from tests.arch.ways import small_steps

ROWS, LENGTH = 8, 8 * 64 + 50  # no window closes while a text is continued
OPTIONS: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
Work = Callable[[BeaconLM, BeaconCache], object]


@dataclass
class Seen:
    """What was seen of a generation's memory.

    Attributes:
        memory: counts all tensors.
        decoding: the generation's buffers.
        steps: bytes before each step, but for the buffers.
    """

    memory: Memory
    decoding: list[StaticDecoding] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    @property
    def buffers(self) -> int:
        """Bytes of the buffers."""
        (made,) = self.decoding
        stacks = [x for stack in made.stacks for x in (stack.keys, stack.values, *stack.moving.buffers)]
        return sum(x.nbytes for x in (made.hidden, made.ids, *stacks))

    @property
    def besides(self) -> int:
        """The most bytes besides the buffers at a time."""
        return self.memory.most - self.buffers


@contextmanager
def seeing() -> Iterator[Seen]:
    """Watch the memory of one generation."""
    start, step = generation.start_decoding, StaticDecoding.step
    with pytest.MonkeyPatch.context() as patch, small_steps(windows=8, slots=8), Memory() as memory:
        seen = Seen(memory)

        def watched_start(*arguments: Any) -> Any:
            seen.decoding.append(start(*arguments))  # type: ignore[arg-type]
            return seen.decoding[-1]

        def watched_step(self: StaticDecoding, ids: torch.Tensor) -> torch.Tensor:
            seen.steps.append(memory.now - seen.buffers)
            return step(self, ids)

        patch.setattr(generation, "start_decoding", watched_start)
        patch.setattr(StaticDecoding, "step", watched_step)
        yield seen


@pytest.fixture(scope="module")
def lm() -> BeaconLM:
    """A model of many layers, beside which what one layer computes is small."""
    settings = {"window": 64, "ratios": (2,), "params": ("k", "v")}
    return model("qwen2", "select", positions=2048, backbone={"num_hidden_layers": 12}, **settings)


@pytest.fixture(scope="module")
def one(lm: BeaconLM) -> BeaconCache:
    """A cache of one row."""
    return lm.compress(tokens(1, LENGTH))


@pytest.mark.parametrize("copies", [1, ROWS])
def test_rows_are_loaded_from_the_given_cache(lm: BeaconLM, one: BeaconCache, copies: int) -> None:
    """There is no copy of a row besides the buffers, and what a step computes is less than a row."""
    rows = ROWS // copies
    given = one.select([0] * rows)
    with seeing() as seen:
        lm.generate(tokens(rows, 1), cache=given, num_return_sequences=copies, **OPTIONS | {"do_sample": True})
    assert len(seen.steps) == 4 and seen.buffers > given.select([0] * copies).nbytes
    assert seen.besides < one.nbytes
    with seeing() as seen, torch.no_grad():  # control: from cache to cache
        after = lm(tokens(rows, 1), cache=given).cache
        generation.start_decoding(lm, after.select([0] * ROWS), None, None, None)
    assert seen.besides > 5 * one.nbytes


@pytest.mark.parametrize("length", [1, 5])
def test_prompts_that_continue_one_row_need_no_copy_of_it(lm: BeaconLM, one: BeaconCache, length: int) -> None:
    with seeing() as seen:
        lm.generate(tokens(ROWS, length), cache=one, **OPTIONS)
    assert len(seen.steps) == (4 if length == 1 else 3)
    assert max(seen.steps) < 0.15 * one.nbytes  # besides the given row, which is not counted, and the buffers
    with seeing() as seen:  # control
        lm.generate(tokens(ROWS, length), cache=one.select([0] * ROWS), **OPTIONS)
    assert min(seen.steps) > 7 * one.nbytes


def continued(lm: BeaconLM, given: BeaconCache) -> None:
    lm.generate(tokens(ROWS, 5), cache=given, **OPTIONS)


def from_long_prompts(lm: BeaconLM, given: BeaconCache) -> None:
    lm.generate(tokens(ROWS, LENGTH), **OPTIONS)


def from_prompts(lm: BeaconLM, given: BeaconCache) -> None:
    lm.generate(tokens(ROWS, 6 * 64 + 50), **OPTIONS)


@pytest.mark.parametrize("work", [continued, from_long_prompts, from_prompts])
def test_prompts_are_read_a_few_rows_at_a_time(
    lm: BeaconLM, one: BeaconCache, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = one.select([0] * ROWS)
    with seeing() as seen:
        work(lm, given)
    assert seen.besides < 3.5 * one.nbytes
    assert max(seen.steps) < 0.15 * one.nbytes  # nothing but the buffers and ids is left
    monkeypatch.setattr(Prompts, "groups", lambda self: [[*range(ROWS)]])  # control: all at once
    with seeing() as seen:
        work(lm, given)
    assert seen.besides > 4 * one.nbytes


def test_starting_from_a_cache_keeps_none_of_it(lm: BeaconLM, one: BeaconCache) -> None:
    with Memory() as memory:
        cache = one.select([0, 0])
        decoding = StaticDecoding(lm, cache, None, None, None)
        both = memory.now
        size = cache.nbytes
        del cache
        assert memory.now == both - size
    assert decoding.cache().nbytes == size


@torch.no_grad()
def test_what_windows_leave_is_computed_ahead_for_a_few_rows(lm: BeaconLM, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, left = lm.compress(tokens(1, 63)), []
    for at_once in (1, closing.AT_ONCE):  # a row; control: all rows
        monkeypatch.setattr(closing, "AT_ONCE", at_once)
        decoding = StaticDecoding(lm, cache.select([0] * ROWS), 0, None, None, cache.rows, greedy=True)
        with Memory() as memory:
            logits = decoding.step(tokens(ROWS, 1))  # fills the windows, which will be kept raw
        left.append(memory.now - logits.nbytes)
    assert 0.2 * cache.nbytes < left[0] < 0.4 * cache.nbytes and left[1] > 2 * cache.nbytes


@torch.no_grad()
def test_buffers_of_rows_that_come_and_go_are_made_for_the_first_row(lm: BeaconLM, one: BeaconCache) -> None:
    """They need not grow for it, and a step computes less than a row has."""
    decoding = RowDecoding(lm, ROWS, 2)
    with small_steps(windows=8, slots=8), Memory() as memory:
        for _ in range(ROWS):
            decoding.join(one, LENGTH + 9)
        made = memory.now
        decoding.step(dict.fromkeys(range(ROWS), 3))
    assert made > ROWS * one.nbytes and memory.most < made + one.nbytes


@pytest.mark.parametrize("slots", [0, 1, 511, 512, 513, 4095, 4096, 6000, 100_000])
def test_buffers_have_whole_chunks_a_scratch_place_and_at_most_an_eighth_more(slots: int) -> None:
    found = with_room(slots)
    assert found % CHUNK == 0 and slots + 1 <= found <= max(slots * 9 / 8, slots + CHUNK)
    assert found + CHUNK > slots * 9 / 8
