"""Estimates for many GPUs agree with what was measured on few, and move as they must."""

from dataclasses import replace

import pytest

from benchmarks.scale import Cluster, Measured, Work, estimate, gather_seconds, work

CLUSTER, MEASURED = Cluster(), Measured()


@pytest.fixture(scope="module")
def seven() -> Work:
    return work("7B")


def test_two_gpus_are_as_measured(seven: Work) -> None:
    for strategy, efficiency in MEASURED.efficiency.items():
        found = estimate(seven, seven, 2, strategy, CLUSTER, MEASURED)
        assert found.speed == pytest.approx(efficiency * 2 * 20480 / MEASURED.seconds, rel=0.03)
        assert found.memory == pytest.approx(MEASURED.peak, rel=1e-6)
        assert found.received == found.adapter == 0


def test_parameters_of_the_shape(seven: Work) -> None:
    assert seven.trained == 462_554_624
    assert seven.parameters == pytest.approx(2 * 7.6156e9 + 4 * seven.trained, rel=1e-4)


def test_gathering_takes_what_the_slower_network_takes() -> None:
    assert gather_seconds(300e9, 8, CLUSTER) == pytest.approx(7 / 8)
    assert gather_seconds(320e9, 16, replace(CLUSTER, nvlink=1e15)) == pytest.approx(1 / 2)
    assert gather_seconds(320e9, 16, replace(CLUSTER, adapter=1e15)) == pytest.approx(320 / 300 * 15 / 16)


def test_a_network_below_what_is_needed_makes_every_layer_wait(seven: Work) -> None:
    fast = estimate(seven, seven, 64, "fsdp2", CLUSTER, MEASURED)
    slow = replace(CLUSTER, adapter=fast.adapter / 8 * 1e9 / 4)
    waiting = estimate(seven, seven, 64, "fsdp2", slow, MEASURED)
    assert waiting.exposed > 0.5 * fast.seconds > 10 * fast.exposed
    assert waiting.gpu_hours(64) > 1.5 * fast.gpu_hours(64)
    assert fast.memory < estimate(seven, seven, 8, "fsdp2", CLUSTER, MEASURED).memory
