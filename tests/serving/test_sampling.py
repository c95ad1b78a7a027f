"""Tokens are drawn as often as their probabilities say, and as their penalties allow."""

from collections import Counter

import pytest
import torch

from beacon_lit.serving.sampling import Sampler

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def drawn(count: int, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0) -> Counter[int]:
    sampler = Sampler(temperature, top_p, 0, 0, seed)
    return Counter(sampler(LOGITS) for _ in range(count))


def test_frequencies() -> None:
    found = drawn(4000)
    for token, share in enumerate((0.5, 0.3, 0.15, 0.05)):
        assert abs(found[token] / 4000 - share) < 0.03
    sharper = drawn(4000, temperature=0.5)  # probabilities squared: 0.25, 0.09, 0.0225, 0.0025
    assert abs(sharper[0] / 4000 - 0.25 / 0.365) < 0.03
    assert set(drawn(1000, top_p=0.75)) == {0, 1} and set(drawn(100, temperature=0)) == {0}


def test_seeds() -> None:
    one, again, other = (Sampler(1, 1, 0, 0, seed) for seed in (1, 1, 2))
    draws = [[sampler(LOGITS) for _ in range(40)] for sampler in (one, again, other)]
    assert draws[0] == draws[1] != draws[2]
    free = [[Sampler(1, 1, 0, 0, None)(LOGITS) for _ in range(40)] for _ in range(2)]
    assert free[0] != free[1]
    assert Sampler(1, 1, 0, 0, -5)(LOGITS) in range(4)


def test_penalties() -> None:
    assert [Sampler(0, 1, 0.6, 0, None)(LOGITS) for _ in range(2)] == [0, 0]  # each answer has a count of its own
    sampler = Sampler(0, 1, 0.6, 0, None)
    assert [sampler(LOGITS) for _ in range(4)] == [0, 1, 0, 0]
    sampler = Sampler(0, 1, 0, 0.6, None)
    assert [sampler(LOGITS) for _ in range(6)] == [0, 1, 0, 1, 0, 2]


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-40, 1e-60])
def test_tiny_temperatures_are_greedy(temperature: float) -> None:
    logits = torch.tensor([1.0, 30.0, 29.9, -1e4])
    assert {Sampler(temperature, 0.9, 0, 0, seed)(logits) for seed in range(20)} == {1}
