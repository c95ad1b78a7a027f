"""A cache may be given by either name with every version of transformers, and no warning is raised."""

import logging
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import DynamicCache
from transformers.utils import generic

from beacon_lit import BeaconConfig
from beacon_lit.arch.inference.cache_names import NAMES, cache_of, named_for
from tests.arch.tiny import tiny, tokens

BEACON = BeaconConfig(window=8, ratios=2)
OPTIONS: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "return_dict_in_generate": True}


@pytest.fixture(autouse=True)
def no_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """Let deprecated arguments fail, and deprecated attributes, which transformers logs once in a process."""

    def refuse(message: str, *_: Any) -> None:
        raise AssertionError(message)

    monkeypatch.setattr(generic.logger, "warning_once", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        yield
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def newer(cache: Any = None, **others: Any) -> None: ...


def older(past_key_values: Any = None, **others: Any) -> None: ...


@pytest.mark.parametrize(("forward", "name"), [(newer, "cache"), (older, "past_key_values")])
def test_arguments_and_outputs(forward: Any, name: str) -> None:
    for given in NAMES:
        assert named_for(forward, {given: 1, "use_cache": True}) == {name: 1, "use_cache": True}
    assert named_for(forward, {"use_cache": True}) == {"use_cache": True}
    assert cache_of(SimpleNamespace(**{name: 1})) == 1


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_dense_backbone(name: str) -> None:
    lm, ids = tiny("llama", BEACON).eval(), tokens(1, 29)
    read = cache_of(lm.dense(ids[:, :20], use_cache=True))
    assert isinstance(read, DynamicCache)
    found = lm.dense_generate(ids, **{name: read}, **OPTIONS)
    assert torch.equal(found.sequences, lm.dense_generate(ids, **OPTIONS).sequences)
    assert cache_of(found) is read and read.get_seq_length() == 31
    again = lm.dense(found.sequences[:, -1:], **{name: read}).logits
    torch.testing.assert_close(again[0, -1], lm.dense(found.sequences).logits[0, -1])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_with_beacons(name: str) -> None:
    lm, ids = tiny("llama", BEACON).eval(), tokens(1, 29)
    cache = lm.compress(ids[:, :20])
    found = lm.generate(ids[:, 20:], **{name: cache}, **OPTIONS)
    assert torch.equal(found.sequences[0, 9:], lm.generate(ids, **OPTIONS).sequences[0, 29:])
    assert cache_of(found).seen_tokens == 31 and cache.seen_tokens == 20
    torch.testing.assert_close(lm(ids[:, 20:], **{name: cache}).logits[:, -1:], lm(ids, logits_to_keep=1).logits)
    with pytest.raises(ValueError, match="DynamicCache is not allowed: it has no memory of beacons"):
        lm.generate(ids, **{name: DynamicCache()}, **OPTIONS)
