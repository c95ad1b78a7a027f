"""On a GPU, the CUDA graph over static buffers reads what calls from cache to cache read."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from beacon_lit import BeaconCache, BeaconConfig, BeaconLM
from beacon_lit.arch.inference.decode import Decoding
from beacon_lit.arch.inference.decode_static import StaticDecoding
from tests.arch.caches import padded, tensors
from tests.arch.tiny import SLIDING, assert_close, kinds, tiny, tokens
from tests.arch.ways import by_calls, small_steps

BEACON = BeaconConfig(window=32, ratios=(2, 4), ratio_policy="cycle", sink=2, overlap=5, placement="interleave")
SELECT = dataclasses.replace(BEACON, placement="select", params=("k", "v"))
# By device: every row closes two windows or more, and the buffers grow, by so many slots at a time.
WINDOW = {"cpu": 8, "cuda": 32}
STEPS = {"cpu": 20, "cuda": 80}
SLOTS = {"cpu": 4, "cuda": 32}

UNEVEN = dataclasses.replace(SELECT, head_budgets=((2.25, 0.25), (0.5, 1.0)))
OPEN = dataclasses.replace(BEACON, unfinished="beacons")
OWN_UNIT = dataclasses.replace(OPEN, placement="own-unit")
BEACONS = pytest.mark.parametrize(
    "beacon",
    [BEACON, SELECT, UNEVEN, OPEN, OWN_UNIT],
    ids=["interleave", "select", "head budgets", "open beacons", "own-unit"],
)


def started(
    dtype: torch.dtype, device: str, beacon: BeaconConfig = BEACON, backbone: dict[str, Any] | None = None
) -> tuple[BeaconLM, BeaconCache]:
    """A model, and three rows at different places of their windows."""
    beacon = dataclasses.replace(beacon, window=WINDOW[device])
    lm = tiny(**backbone or {"family": "qwen3"}, beacon=beacon, head_dim=16).to(device, dtype).eval()
    ids, mask = padded([tokens(length, seed=length) for length in (40, 7, 100)])
    return lm, lm.compress(ids.to(device), mask)


@torch.no_grad()
def read(decoding: Decoding, device: str) -> Tensor:
    """(3, L, V) logits after each of L tokens, the same for every way of decoding."""
    ids = tokens(3, STEPS[device]).to(device)
    return torch.cat([decoding.step(column).clone() for column in ids.split(1, 1)], 1)


def decode(
    dtype: torch.dtype,
    device: str = "cuda",
    beacon: BeaconConfig = BEACON,
    backbone: dict[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits in static buffers, and by calls. The caches at the end are the same, too."""
    lm, cache = started(dtype, device, beacon, backbone)
    with small_steps(windows=8, slots=SLOTS[device]):
        static = StaticDecoding(lm, cache, None, None, None)
        slots = [stack.slots for stack in static.stacks]
        found = read(static, device)
    assert [stack.slots for stack in static.stacks] != slots
    graphs = 2 if beacon.unfinished == "beacons" else 1  # with beacons, and without
    assert len(static.graphs) == (0 if device == "cpu" else graphs)
    calls = Decoding(lm, cache, None, None, None)
    expected = read(calls, device)
    one, two = static.cache(), calls.cache()
    assert one.rows == two.rows
    if dtype == torch.float32:
        for name, value in tensors(two).items():
            assert_close(tensors(one)[name], value, 1e-4, name)
    return found, expected


@BEACONS
def test_float32_on_the_cpu(beacon: BeaconConfig) -> None:
    """The same without a graph."""
    assert_close(*decode(torch.float32, "cpu", beacon), 1e-4)


@pytest.mark.gpu
@BEACONS
def test_float32_on_a_gpu(beacon: BeaconConfig) -> None:
    assert_close(*decode(torch.float32, beacon=beacon), 1e-4)


@pytest.mark.parametrize("reach", [9, 50])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("family", SLIDING)
@BEACONS
def test_sliding_windows(beacon: BeaconConfig, family: str, device: str, reach: int) -> None:
    pattern = "mms" if beacon is UNEVEN else "sms"
    backbone = {"family": family, **kinds(pattern, reach)}
    assert_close(*decode(torch.float32, device, beacon, backbone), 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("beacon", [BEACON, OPEN], ids=["interleave", "open beacons"])
def test_bfloat16_on_a_gpu(beacon: BeaconConfig) -> None:
    """As far from float32 as calls from cache to cache are."""
    wanted = decode(torch.float32, beacon=beacon)[1]
    both = decode(torch.bfloat16, beacon=beacon)
    found, called = ((logits.float() - wanted).norm() / wanted.norm() for logits in both)
    assert found < 1.2 * called + 0.01


@pytest.mark.gpu
def test_beams_on_a_gpu() -> None:
    """Buffers are reordered under the graph."""
    lm, cache = started(torch.float32, "cuda")
    options = {"max_new_tokens": 40, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    ids = tokens(3, 2).cuda()
    found = lm.generate(ids, cache=cache, **options)
    with by_calls():
        assert torch.equal(found, lm.generate(ids, cache=cache, **options))
