"""What is compared, behind one interface: a text read with beacons, and by the plain backbone."""

import time
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2ForCausalLM, StoppingCriteria, StoppingCriteriaList

from beacon_lit import BeaconCache, BeaconLM

Cache = Any  # a BeaconCache, or a DynamicCache


class Subject(Protocol):
    """One way to read a text and to go on from it.

    Attributes:
        name: as in tables.
        has_borders: whether a step at which a window closes costs more than others.
    """

    name: str
    has_borders: bool

    def read(self, ids: Tensor) -> Cache:
        """(B, L) ids -> what is kept of them."""

    def nbytes(self, cache: Cache) -> int:
        """Bytes of a cache."""

    def copies(self, cache: Cache, rows: int, device: torch.device) -> Cache:
        """A cache of one row, so many times, on a device."""

    def generate(self, ids: Tensor, cache: Cache, new: int) -> list[float]:
        """Seconds of each of `new` greedy steps; (B, L) ids, of which the cache holds all but the last."""


class Beacons:
    """Beacons, at the ratio that the model has been built for."""

    name, has_borders = "beacons", True

    def __init__(self, lm: BeaconLM) -> None:
        self.lm = lm

    def read(self, ids: Tensor) -> BeaconCache:
        return self.lm.compress(ids)

    def read_on(self, ids: Tensor, cache: BeaconCache) -> BeaconCache:
        """(B, L) ids that follow those of a cache -> what is kept of all."""
        return self.lm.compress(ids, cache=cache)

    def nbytes(self, cache: BeaconCache) -> int:
        return cache.nbytes

    def copies(self, cache: BeaconCache, rows: int, device: torch.device) -> BeaconCache:
        return cache.to(device).select([0] * rows)

    def generate(self, ids: Tensor, cache: BeaconCache, new: int) -> list[float]:
        return _timed(self.lm, ids[:, -1:], new, cache=cache)


class Dense:
    """The backbone as transformers has it, on the same weights: one forward to read, and `DynamicCache`."""

    name, has_borders = "dense", False

    def __init__(self, lm: BeaconLM) -> None:
        self.lm = lm
        with torch.device("meta"):  # only its `generate` is wanted: the modules are the beacon model's
            self.plain = Qwen2ForCausalLM(lm.config)
        self.plain.model, self.plain.lm_head = lm.model, lm.lm_head
        self.plain.eval()

    def read(self, ids: Tensor) -> DynamicCache:
        cache = DynamicCache()
        self.lm.dense(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    def nbytes(self, cache: DynamicCache) -> int:
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)

    def copies(self, cache: DynamicCache, rows: int, device: torch.device) -> DynamicCache:
        copied = DynamicCache()
        for i, layer in enumerate(cache.layers):
            copied.update(*(x.to(device).repeat_interleave(rows, 0) for x in (layer.keys, layer.values)), i)
        return copied

    def generate(self, ids: Tensor, cache: DynamicCache, new: int) -> list[float]:
        # Given all ids and a mask as long, transformers runs those that the cache does not hold.
        return _timed(self.plain, ids, new, past_key_values=cache, attention_mask=torch.ones_like(ids))


def subjects(lm: BeaconLM) -> tuple[Subject, ...]:
    """What is compared."""
    return Beacons(lm), Dense(lm)


def random_ids(lm: BeaconLM, length: int, device: torch.device) -> Tensor:
    """(1, length) token ids, the same in every run."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.randint(lm.config.vocab_size, (1, length), generator=generator, device=device)


class Clock(StoppingCriteria):
    """Notes when each token is there; stops nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ticks = [self._now()]

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.ticks.append(self._now())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    @property
    def steps(self) -> list[float]:
        """Seconds from each token to the next, from the clock's making to the first."""
        return [after - before for before, after in zip(self.ticks, self.ticks[1:], strict=False)]

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _timed(model: Any, ids: Tensor, new: int, **options: Any) -> list[float]:
    clock = Clock(ids.device)
    greedy = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None}
    out = model.generate(ids, stopping_criteria=StoppingCriteriaList([clock]), **greedy, **options)
    if len(clock.steps) != new or out.shape[1] != ids.shape[1] + new:
        made = out.shape[1] - ids.shape[1]
        raise RuntimeError(f"{made} tokens came in {len(clock.steps)} timed steps; {new} were asked for")
    return clock.steps
