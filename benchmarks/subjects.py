"""Define the compared models behind one interface: reading with beacons, and with the plain backbone."""

import time
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2ForCausalLM, StoppingCriteria, StoppingCriteriaList

from beacon_lit import BeaconCache, BeaconLM
from beacon_lit.arch import longest
from beacon_lit.arch.flops import Load, load
from beacon_lit.arch.plan.call import plan_call

Cache = Any  # a BeaconCache, or a DynamicCache


class Subject(Protocol):
    """A way to read a text and to continue it.

    Attributes:
        lm: the model.
        name: name in tables.
        has_borders: whether a step that closes a window costs more than other steps.
    """

    lm: BeaconLM
    name: str
    has_borders: bool

    def read(self, ids: Tensor) -> Cache:
        """Read (B, L) ids; return their cache."""

    def fits(self, length: int) -> bool:
        """Whether the backbone has positions for one row of `length` tokens and what is written after it."""

    def work(self, length: int) -> Load:
        """Return the amount of work in reading one row of `length` tokens."""

    def nbytes(self, cache: Cache, rows: int = 1) -> int:
        """Return the bytes of what later tokens of `rows` rows see, which continue from a cache of `for_rows`."""

    def for_rows(self, cache: Cache, rows: int, device: torch.device) -> Cache:
        """Return what `rows` rows continue from that all begin with the text of a cache of one row."""

    def generate(self, ids: Tensor, cache: Cache, new: int) -> list[float]:
        """Return the seconds of each of `new` greedy steps; the cache holds all of the (B, L) ids but the last."""


class Beacons:
    """Read and decode with beacons, at the ratio of the model."""

    name, has_borders = "beacons", True

    def __init__(self, lm: BeaconLM) -> None:
        self.lm = lm

    def read(self, ids: Tensor) -> BeaconCache:
        return self.lm.compress(ids)

    def read_on(self, ids: Tensor, cache: BeaconCache) -> BeaconCache:
        """Read (B, L) ids that follow those of a cache; return the cache of all ids."""
        return self.lm.compress(ids, cache=cache)

    def fits(self, length: int) -> bool:
        return length <= longest(self.lm.beacon, self.lm.beacon.ratios[0], self.lm.positions)

    def work(self, length: int) -> Load:
        beacon = self.lm.beacon
        call = plan_call(
            beacon, beacon.limits(self.lm.positions), [length], None, beacon.unfinished, beacon.ratios[0], None
        )
        return load(call.rows, beacon, self.lm.groups.reaches)

    def nbytes(self, cache: BeaconCache, rows: int = 1) -> int:
        return rows * cache.visible.nbytes

    def for_rows(self, cache: BeaconCache, rows: int, device: torch.device) -> BeaconCache:
        return cache.to(device)  # which `generate` loads into the buffers of each row

    def generate(self, ids: Tensor, cache: BeaconCache, new: int) -> list[float]:
        return _timed(self.lm, ids[:, -1:], new, cache=cache)


class Kept(Beacons):
    """Read and decode with the backbone by our own machinery, which compresses nothing.

    The text is read in the windows of the beacons, each of which sees all text before it, by the same attention kernel.
    A step of decoding runs in a CUDA graph over static buffers, and reads each key and value once. With
    selected beacons it also makes what could close its window: the maps of k and v once more, 1 to 2 % of the weights.
    """

    name, has_borders = "dense, static", False

    def read(self, ids: Tensor) -> BeaconCache:
        return self.lm.compress(ids, ratios=0)

    def fits(self, length: int) -> bool:
        return length <= self.lm.positions - self.lm.beacon.window

    def work(self, length: int) -> Load:
        return dense_work(length)

    def generate(self, ids: Tensor, cache: BeaconCache, new: int) -> list[float]:
        return _timed(self.lm, ids[:, -1:], new, cache=cache, ratios=0)


class Dense:
    """Read and decode with the backbone of transformers on the same weights, with `DynamicCache`."""

    name, has_borders = "dense", False

    def __init__(self, lm: BeaconLM) -> None:
        self.lm = lm
        with torch.device("meta"):  # only `generate` is needed: the modules are the beacon model's
            self.plain = Qwen2ForCausalLM(lm.config)
        self.plain.model, self.plain.lm_head = lm.model, lm.lm_head
        self.plain.eval()

    def read(self, ids: Tensor) -> DynamicCache:
        cache = DynamicCache()
        self.lm.dense(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    def fits(self, length: int) -> bool:
        return True  # beyond the positions, transformers goes on

    def work(self, length: int) -> Load:
        return dense_work(length)

    def nbytes(self, cache: DynamicCache, rows: int = 1) -> int:
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)

    def for_rows(self, cache: DynamicCache, rows: int, device: torch.device) -> DynamicCache:
        copied = DynamicCache()
        for i, layer in enumerate(cache.layers):
            copied.update(*(x.to(device).repeat_interleave(rows, 0) for x in (layer.keys, layer.values)), i)
        return copied

    def generate(self, ids: Tensor, cache: DynamicCache, new: int) -> list[float]:
        # Given all ids and a mask of the same length, transformers runs the ids that the cache does not hold.
        return _timed(self.plain, ids, new, past_key_values=cache, attention_mask=torch.ones_like(ids))


def dense_work(length: int) -> Load:
    """Return the work of reading without beacons: each token sees all tokens up to itself."""
    return Load(length, 0, 0, length * (length + 1) // 2)


def subjects(lm: BeaconLM) -> tuple[Subject, ...]:
    """Return the models to compare."""
    return Beacons(lm), Kept(lm), Dense(lm)


def random_ids(lm: BeaconLM, length: int, device: torch.device) -> Tensor:
    """Draw (1, length) token ids, the same in every run."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.randint(lm.config.vocab_size, (1, length), generator=generator, device=device)


class Clock(StoppingCriteria):
    """Record when the host knows each token, without ever stopping the generation."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ticks = [self._now()]

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.ticks.append(self._now())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    @property
    def steps(self) -> list[float]:
        """Seconds of each token since the token before, and of the first since the clock was made."""
        return [after - before for before, after in zip(self.ticks, self.ticks[1:], strict=False)]

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return time.perf_counter()


def _timed(model: Any, ids: Tensor, new: int, **options: Any) -> list[float]:
    clock = Clock(ids.device)
    greedy = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None}
    out = model.generate(ids, stopping_criteria=StoppingCriteriaList([clock]), **greedy, **options)
    if len(clock.steps) != new or out.shape[1] != ids.shape[1] + new:
        made = out.shape[1] - ids.shape[1]
        raise RuntimeError(f"{made} tokens came in {len(clock.steps)} timed steps; {new} were requested")
    return clock.steps
