"""Caches in tests: models that read in float64, padded batches, and what makes two caches the same."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from beacon_lit import BeaconCache, BeaconConfig, BeaconLM
from beacon_lit.arch.plan.state import RowState
from tests.arch.tiny import assert_close, tiny, tokens

TOLERANCE = 1e-8  # float64: the order of additions differs between ways of reading, nothing else


def model(
    family: str = "qwen2",
    placement: str = "interleave",
    sink: int = 1,
    overlap: int = 2,
    unfinished: str = "raw",
    positions: int = 512,
    backbone: dict[str, Any] | None = None,
    **settings: Any,
) -> BeaconLM:
    """A tiny model with windows of 8 and the policy "cycle" over ratios 2 and 4, in float64 and eval mode."""
    defaults: dict[str, Any] = {"window": 8, "ratios": (2, 4), "ratio_policy": "cycle"}
    beacon = BeaconConfig(
        **defaults | {"placement": placement, "sink": sink, "overlap": overlap, "unfinished": unfinished} | settings
    )
    return tiny(family, beacon, max_position_embeddings=positions, **backbone or {}).double().eval()


def padded(texts: Sequence[Tensor], left: bool = True) -> tuple[Tensor, Tensor]:
    """Texts of any lengths as (B, L) ids and their mask."""
    width = max(map(len, texts))
    ids, mask = (torch.zeros(len(texts), width, dtype=torch.long) for _ in range(2))
    for row, text in enumerate(texts):
        span = slice(width - len(text), None) if left else slice(len(text))
        ids[row, span], mask[row, span] = text, 1
    return ids, mask


def tensors(cache: BeaconCache) -> dict[str, Tensor]:
    """All tensors of a cache, by name."""
    layers = {f"{i}.{name}": value for i, layer in enumerate(cache.layers) for name, value in vars(layer).items()}
    return {"hidden": cache.hidden, **layers}


Snapshot = tuple[tuple[RowState, ...], dict[str, Tensor], tuple[Any, ...]]


def snapshot(cache: BeaconCache) -> Snapshot:
    """What a cache says and holds now, in memory of its own."""
    about = (cache.unfinished, cache.interleaved, cache.fingerprint)
    return cache.rows, {name: value.clone() for name, value in tensors(cache).items()}, about


def assert_unchanged(cache: BeaconCache, before: Snapshot) -> None:
    """The cache is, bit for bit, what it was."""
    rows, values, about = snapshot(cache)
    assert (rows, about) == (before[0], before[2])
    for name, value in before[1].items():
        assert value.dtype == values[name].dtype and torch.equal(value, values[name]), name


def assert_same(one: BeaconCache, two: BeaconCache) -> None:
    """Equal counts, and tensors that are equal to rounding."""
    assert one.rows == two.rows, f"{one.rows} != {two.rows}"
    assert (one.unfinished, one.interleaved, one.fingerprint) == (two.unfinished, two.interleaved, two.fingerprint)
    expected = tensors(two)
    for name, value in tensors(one).items():
        torch.testing.assert_close(
            value, expected[name], atol=TOLERANCE, rtol=TOLERANCE, msg=lambda text, name=name: f"{name}: {text}"
        )


def going_on(lm: BeaconLM, cache: BeaconCache, length: int) -> tuple[Tensor, Tensor, BeaconCache]:
    """Logits, losses and the cache of more tokens, each row with its own."""
    more = tokens(len(cache.rows), length, seed=99)
    out = lm(more, labels=more, cache=cache, ratios=2)
    return out.logits, out.token_loss, out.cache


def assert_goes_on_alike(lm: BeaconLM, one: BeaconCache, two: BeaconCache) -> None:
    """The same logits, losses and later caches, within the open window and beyond it."""
    for length in (1, 11):  # within the window, and over its border
        found, expected = going_on(lm, one, length), going_on(lm, two, length)
        assert_close(found[0], expected[0], 1e-8, "logits")
        assert_close(found[1], expected[1], 1e-5, "losses")  # they are float32
        assert_same(found[2], expected[2])
