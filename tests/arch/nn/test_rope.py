"""RoPE types: windows that are all kept raw must be the dense model, whatever the backbone does to frequencies."""

from itertools import product
from typing import Any

import pytest
import torch

from beacon_lit import BeaconConfig, BeaconLM
from tests.arch.oracle import oracle_logits
from tests.arch.tiny import FAMILIES, assert_close, hf_config, tiny, tokens

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1e4}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32, "rope_theta": 1e4,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
DEFAULT = {"rope_type": "default", "rope_theta": 1e4}
ROPES = {"default": DEFAULT, "linear": LINEAR, "llama3": LLAMA3, "yarn": YARN}
LONG = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 32}
REFUSED = {
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
    "longrope": {"rope_type": "longrope", "factor": 2.0, "rope_theta": 1e4, **LONG},
}
BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, overlap=3, placement="interleave")


def model(family: str, rope: dict[str, Any], dtype: torch.dtype) -> BeaconLM:
    return tiny(family, BEACON, dtype=dtype, rope_parameters=dict(rope), max_position_embeddings=128)


@pytest.mark.parametrize("length", [9, 61, 120])
@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_windows_kept_raw_are_the_dense_model(family: str, rope: str, length: int) -> None:
    lm, ids = model(family, ROPES[rope], torch.float32), tokens(2, length)
    assert_close(lm(ids, ratios=0).logits, lm.dense(ids).logits, 1e-5)


@pytest.mark.parametrize("rope", ROPES)
@torch.no_grad()
def test_beacons(rope: str) -> None:
    lm, ids = model("llama", ROPES[rope], torch.float64), tokens(1, 61)
    ratios = [2, 4, 0, 8, "drop", 4, 2, 1]
    assert_close(lm(ids, ratios=ratios).logits[0], oracle_logits(lm, ids[0], ratios, "raw"), 1e-9)


@torch.no_grad()
def test_types_differ() -> None:
    """Else the tests above would not tell one from another."""
    ids = tokens(1, 61)
    logits = [model("llama", rope, torch.float32)(ids, ratios=4).logits for rope in ROPES.values()]
    assert all(not torch.allclose(a, b, atol=1e-2) for i, a in enumerate(logits) for b in logits[:i])


@pytest.mark.parametrize(("family", "rope"), [*product(FAMILIES, REFUSED), ("phi3", "longrope")])
def test_frequencies_that_change_with_the_length_are_refused(family: str, rope: str) -> None:
    with pytest.raises(ValueError, match=f"rope_type='{rope}'.*allowed: default, linear, llama3, yarn"):
        model(family, REFUSED[rope], torch.float32)


def test_positions() -> None:
    def positions(limit: int, rope: dict[str, Any]) -> int:
        config = hf_config("qwen2", max_position_embeddings=limit, rope_parameters=dict(rope))
        return BeaconLM.from_config(config, BeaconConfig(window=8, ratios=2, placement="interleave")).positions

    assert positions(128, DEFAULT) == 128
    assert positions(32, YARN) == 128  # as Qwen writes it: the trained length, and a factor
    assert positions(128, YARN) == 128  # as others do: the length after scaling
    assert positions(128, LINEAR) == 128


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_positions_of_llama_3_are_those_of_its_config(factor: float) -> None:
    """Llama 3.1 (factor 8) and 3.2 (factor 32) both scale 8,192 positions, to the same 131,072."""
    rope = {**LLAMA3, "factor": factor, "original_max_position_embeddings": 8192}
    config = hf_config("llama", max_position_embeddings=131072, rope_parameters=rope)
    assert BeaconLM.from_config(config, BeaconConfig(window=8, ratios=2, placement="interleave")).positions == 131072


def test_yarn_extends_how_long_a_row_may_be() -> None:
    beacon = BeaconConfig(window=8, ratios=2, placement="interleave")
    ids = tokens(1, 100)
    short = BeaconLM.from_config(hf_config("qwen2", max_position_embeddings=32), beacon)
    with pytest.raises(ValueError, match="the backbone has 32"):
        short(ids)
    long = BeaconLM.from_config(hf_config("qwen2", max_position_embeddings=32, rope_parameters=dict(YARN)), beacon)
    assert long(ids).logits.isfinite().all()
