"""Distillation of attention outputs, against their definition."""

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from beacon_lit import BeaconConfig
from beacon_lit.arch import Observe, Teacher
from beacon_lit.module import BeaconModule
from beacon_lit.objectives import AttentionDistillation, Distillation
from tests.arch.tiny import assert_close, gradients, tiny
from tests.configs import composed
from tests.objectives.batches import batch

BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, overlap=3, placement="interleave")


def test_without_weight_it_is_distillation() -> None:
    lm = tiny("qwen2", BEACON)
    actual, parts = AttentionDistillation(layers=(0, 1), weight=0)(lm, batch(), 2)
    expected, others = Distillation()(lm, batch(), 2)
    assert torch.equal(actual, expected) and parts["attention"].any()
    assert all(torch.equal(parts[name], value) for name, value in others.items())
    wanted = gradients(lm, expected.sum())
    for name, gradient in gradients(lm, actual.sum()).items():
        assert torch.equal(gradient, wanted[name]), name


@pytest.mark.parametrize("limit", [1e9, 0.3])
def test_the_difference_is_that_of_attention_outputs(limit: float) -> None:
    lm, given = tiny("llama", BEACON, dtype=torch.float64), batch()
    loss, parts = AttentionDistillation(layers=(1,), weight=3.0, limit=limit, teacher=Teacher(length=25))(lm, given, 2)
    plain, _ = Distillation(teacher=Teacher(length=25))(lm, given, 2)
    lm.requires_grad_(False)
    own = lm(given["input_ids"], given["attention_mask"], ratios=2, observe=Observe(attention=(1,))).observed
    dense = lm(given["input_ids"], given["attention_mask"], ratios=0, observe=Observe(attention=(1,))).observed
    for row in range(2):
        for token in range(1, 30):
            a, b = own["attention.1"][row, token - 1], dense["attention.1"][row, token - 1]
            expected = min(float((a - b) @ (a - b) / (b @ b)), limit) if b.any() else 0.0
            if given["labels"][row, token] == -100 or token > 25:
                expected = 0.0
            assert_close(parts["attention"][row, token], torch.tensor(expected), 1e-4)
    assert_close(loss, plain + 3 * parts["attention"], 1e-5)
    assert parts["attention"][0, 12:24].min() > 0 and (limit > 1 or (parts["attention"] == limit).any())


@pytest.mark.parametrize("name", ["weight", "limit", "alpha"])
def test_numbers_out_of_range(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=-1"):
        AttentionDistillation(layers=(0,), **{name: -1})


def test_a_layer_is_needed() -> None:
    with pytest.raises(ValueError, match=r"layers=\[\]"):
        AttentionDistillation(layers=())


@pytest.mark.parametrize("layer", [-1, 2])
def test_a_layer_that_the_model_lacks_ends_the_run_before_the_first_step(layer: int) -> None:
    module = BeaconModule(
        lambda shard: tiny("qwen2", BEACON), None, torch.optim.SGD, objective=AttentionDistillation(layers=(0, layer))
    )
    with pytest.raises(ValueError, match=rf"objective\.layers=\[0, {layer}\] is not allowed: .*; allowed: 0 to 1"):
        Trainer(logger=False, enable_checkpointing=False, accelerator="cpu").fit(module, DataLoader([]))


def test_it_is_composed() -> None:
    config = composed("train", "objective=attention", "objective.layers=[1]")
    assert config.objective._target_ == "beacon_lit.objectives.AttentionDistillation"
    assert list(config.objective.layers) == [1] and config.objective.teacher.temperature == 1.0
