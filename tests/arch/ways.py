"""Three ways to generate: in static buffers (what a model does), by calls from cache to cache, by reading all anew."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import Tensor
from transformers import GenerationMixin

from beacon_lit import BeaconLM
from beacon_lit.arch.inference import compress, decode_static, generate, prompts, static
from beacon_lit.arch.inference.decode import Decoding


@contextmanager
def by_calls() -> Iterator[None]:
    """Every token goes through a call from cache to cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "start_decoding", Decoding)
        yield


@contextmanager
def anew() -> Iterator[None]:
    """Every token comes from one pass over all that precedes it; no cache is used at all.

    Ratios per window must be enough for all windows of prompt and answer.
    """

    def prepare(self: BeaconLM, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        passed = {name: kwargs.get(name) for name in ("attention_mask", "unfinished", "total_length")}
        ratios = kwargs.get("ratios")
        if isinstance(ratios, list) and isinstance(ratios[0], list):  # of prompts, whose beams follow one another
            ratios = [row for row in ratios for _ in range(len(input_ids) // len(ratios))]
        return {"input_ids": input_ids, "ratios": ratios, "logits_to_keep": 1, **passed}

    theirs = GenerationMixin._update_model_kwargs_for_generation
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BeaconLM, "prepare_inputs_for_generation", prepare)
        patch.setattr(BeaconLM, "_update_model_kwargs_for_generation", theirs)
        patch.setattr(BeaconLM, "_prefill", GenerationMixin._prefill, raising=False)
        yield


@contextmanager
def small_steps(windows: int, slots: int) -> Iterator[None]:
    """Prompts are read a few windows at a time, and buffers grow by few slots, as long ones do at full size."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (compress, decode_static, prompts):
            patch.setattr(module, "CHUNK_WINDOWS", windows)
        patch.setattr(static, "CHUNK", slots)
        yield
