"""All windows in one pass against the loop over windows of `oracle.py`: values and gradients."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch import Teacher
from tests.arch.cases import PLACEMENTS, Case, cases
from tests.arch.oracle import oracle_logits, oracle_loss
from tests.arch.tiny import FAMILIES, OTHERS, SLIDING, assert_close, examples, gradients, kinds, tiny, tokens

# In float64 what is left is rounding; the families' RMSNorm works in float32, which shows in gradients.
VALUES, GRADIENTS = 1e-9, 2e-6
MIXED = BeaconConfig(window=8, ratios=(2, 4), sink=2, overlap=3, params=("q", "k", "v", "o"), placement="interleave")
SELECT = BeaconConfig(window=8, ratios=(2, 4), sink=2, overlap=3, placement="select", params=("k", "v"))
UNEVEN = dataclasses.replace(SELECT, head_budgets=((2.25, 0.25), (0.5, 1.0)))
RATIOS = [4, 2, 0, 8, "drop", 2, 1]


def compare(lm: BeaconLM, ids: Tensor, ratios: Sequence[int | str], unfinished: str) -> None:
    """One pass over a row against the oracle."""
    out = lm(ids, labels=ids, ratios=ratios, unfinished=unfinished)
    expected = oracle_logits(lm, ids[0], ratios, unfinished)
    loss = oracle_loss(expected, ids[0])
    assert_close(out.logits[0], expected, VALUES, "logits")
    assert_close(out.loss, loss.float(), 1e-5, "loss")
    if not loss.requires_grad:  # the oracle never touched a beacon
        assert all(not gradient.any() for gradient in gradients(lm, out.loss).values())
        return
    trained = {name: parameter for name, parameter in lm.named_parameters() if parameter.requires_grad}
    wanted = torch.autograd.grad(loss, list(trained.values()), materialize_grads=True)
    actual = gradients(lm, out.loss)
    for name, gradient in zip(trained, wanted, strict=True):
        assert_close(actual[name], gradient, GRADIENTS, name)


@pytest.mark.parametrize("family", FAMILIES)
@examples(100)
@given(case=cases())
def test_beacons(family: str, case: Case) -> None:
    lm = tiny(family, case.beacon, seed=case.seed, dtype=torch.float64)
    compare(lm, tokens(1, case.lengths[0], seed=case.seed), case.ratios[0], case.unfinished)


@pytest.mark.parametrize("family", FAMILIES)
@examples(30)
@given(case=cases())
def test_whole_model(family: str, case: Case) -> None:
    lm = tiny(family, case.beacon, seed=case.seed, dtype=torch.float64).requires_grad_(True)
    compare(lm, tokens(1, case.lengths[0], seed=case.seed), case.ratios[0], case.unfinished)


@pytest.mark.parametrize("family", OTHERS)
@examples(8)
@given(case=cases(), whole=st.booleans())
def test_other_families(family: str, case: Case, whole: bool) -> None:
    lm = tiny(family, case.beacon, seed=case.seed, dtype=torch.float64).requires_grad_(whole)
    if not whole:
        lm.freeze()
    compare(lm, tokens(1, case.lengths[0], seed=case.seed), case.ratios[0], case.unfinished)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_float32(family: str, placement: str) -> None:
    beacon = BeaconConfig(**{**vars(MIXED), "placement": placement})
    lm, ids = tiny(family, beacon), tokens(1, 53)
    expected = oracle_logits(lm, ids[0], RATIOS, "raw")
    assert_close(lm(ids, ratios=RATIOS).logits[0], expected, 1e-5, "logits")


def test_tied_embeddings() -> None:
    lm = tiny("qwen2", MIXED, dtype=torch.float64, tie_word_embeddings=True).requires_grad_(True)
    assert lm.lm_head.weight is lm.model.embed_tokens.weight
    compare(lm, tokens(1, 53), RATIOS, "raw")


def test_biases_on_every_projection() -> None:
    lm = tiny("llama", MIXED, dtype=torch.float64, attention_bias=True).requires_grad_(True)
    assert lm.model.layers[0].self_attn.beacon_o_proj.bias is not None
    compare(lm, tokens(1, 53), RATIOS, "raw")


@pytest.mark.parametrize("layers", [None, 1, 0])
@pytest.mark.parametrize("family", FAMILIES)
def test_activation_checkpointing_changes_no_gradient(family: str, layers: int | None) -> None:
    lm, ids = tiny(family, MIXED), tokens(2, 53)
    plain = lm(ids, labels=ids, ratios=RATIOS)
    expected = gradients(lm, plain.loss)
    lm.checkpoint_activations(layers)
    calls = [0] * len(lm.model.layers)
    for i, layer in enumerate(lm.model.layers):
        layer.self_attn.register_forward_pre_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1))
    out = lm(ids, labels=ids, ratios=RATIOS)
    assert torch.equal(out.loss, plain.loss)
    actual = gradients(lm, out.loss)
    assert all(torch.equal(actual[name], gradient) for name, gradient in expected.items())
    recomputed = len(calls) if layers is None else layers
    assert calls == [2] * recomputed + [1] * (len(calls) - recomputed)


def test_activation_checkpointing_of_the_whole_model() -> None:
    lm, ids = tiny("qwen3", MIXED, dtype=torch.float64).requires_grad_(True), tokens(1, 53)
    lm.checkpoint_activations()
    compare(lm, ids, RATIOS, "raw")


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
def test_checkpointing_by_the_name_of_transformers_is_never_reentrant() -> None:
    lm, ids = tiny("qwen2", MIXED), tokens(1, 53)
    expected = gradients(lm, lm(ids, labels=ids, ratios=RATIOS).loss)
    with pytest.raises(ValueError, match="use_reentrant=True"):
        lm.gradient_checkpointing_enable({"use_reentrant": True})
    lm.gradient_checkpointing_enable({"use_reentrant": False})
    assert all(layer.gradient_checkpointing for layer in lm.model.layers)
    actual = gradients(lm, lm(ids, labels=ids, ratios=RATIOS).loss)
    assert all(torch.equal(actual[name], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_a_row_of_one_window_has_loss_and_zero_beacon_gradients(length: int, checkpointing: bool) -> None:
    lm, ids = tiny("qwen2", MIXED), tokens(1, length)
    if checkpointing:
        lm.checkpoint_activations()
    out = lm(ids, labels=ids)
    out.loss.backward()
    assert out.loss.isfinite() and (out.loss > 0) == (length > 1)
    for parameter in lm.beacon_parameters():
        assert parameter.grad is not None and not parameter.grad.any()


@pytest.mark.parametrize("unfinished", ["raw", "beacons"])
def test_scoring_equals_training_without_gradients(unfinished: str) -> None:
    lm, ids = tiny("llama", MIXED), tokens(1, 53)
    trained = lm(ids, ratios=RATIOS, unfinished=unfinished).logits
    with torch.no_grad():
        assert torch.equal(lm.eval()(ids, ratios=RATIOS, unfinished=unfinished).logits, trained)


def test_training_leaves_the_last_window_raw_and_eval_follows_the_config() -> None:
    beacon = BeaconConfig(window=8, ratios=2, unfinished="beacons", placement="interleave")
    lm, ids = tiny("qwen2", beacon), tokens(1, 21)
    raw, inserted = (lm(ids, unfinished=each).logits for each in ("raw", "beacons"))
    assert not torch.allclose(raw[:, 16:], inserted[:, 16:])
    assert torch.equal(lm(ids).logits, raw)
    assert torch.equal(lm.eval()(ids).logits, inserted)
    with pytest.raises(ValueError, match="unfinished='open'"):
        lm(ids, unfinished="open")


@pytest.mark.gpu
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("beacon", [MIXED, SELECT, UNEVEN], ids=["interleave", "select", "head budgets"])
@pytest.mark.parametrize(
    "backbone", [{"family": "qwen3"}, *({"family": family, **kinds("mms", 21)} for family in SLIDING)], ids=str
)
def test_on_a_gpu(backbone: dict[str, Any], beacon: BeaconConfig, checkpointing: bool) -> None:
    """As on the CPU in float32, also compiled; in bf16 the loss is close."""
    lm, ids = tiny(**backbone, beacon=beacon, head_dim=16), tokens(2, 53)
    expected = lm(ids, labels=ids, ratios=RATIOS)
    wanted = gradients(lm, expected.loss)
    lm.cuda()
    if checkpointing:
        lm.checkpoint_activations()
    half = copy.deepcopy(lm).bfloat16()
    mask = torch.ones_like(ids)  # masks may stay on the CPU
    for compiled in (False, True):
        if compiled:
            lm.compile_pointwise()
        out = lm(ids.cuda(), mask, ids.cuda(), ratios=RATIOS)
        assert_close(out.logits.cpu(), expected.logits, 1e-4, "logits")
        for name, gradient in gradients(lm, out.loss).items():
            assert_close(gradient.cpu(), wanted[name], 1e-4, name)
    assert lm.state_dict().keys() == half.state_dict().keys()
    loss = half(ids.cuda(), labels=ids.cuda(), ratios=RATIOS).loss
    assert abs(loss.item() - expected.loss.item()) < 0.1
    assert all(gradient.isfinite().all() for gradient in gradients(half, loss).values())


@pytest.mark.parametrize("teacher", [None, Teacher(), Teacher(length=30)], ids=["labels", "teacher", "short teacher"])
@pytest.mark.parametrize("beacon", [MIXED, SELECT, UNEVEN], ids=["interleave", "select", "head budgets"])
@pytest.mark.parametrize("head", [False, True], ids=["frozen head", "trained head"])
def test_a_training_pass_reads_nothing_from_its_device(
    beacon: BeaconConfig, teacher: Teacher | None, head: bool
) -> None:
    """Nothing can be read from tensors on "meta", which are told apart from those on the CPU as a GPU's are."""
    lm, ids = tiny("qwen3", beacon).to("meta"), tokens(3, 53)
    lm.lm_head.weight.requires_grad_(head)
    mask = (torch.arange(53) < torch.tensor([53, 20, 41])[:, None]).long()
    labels = ids.masked_fill((mask == 0) | (ids % 3 == 0), -100)
    out = lm(ids, mask, labels, return_logits=False, teacher=teacher)
    (out.token_loss if teacher is None else out.token_loss + out.token_kl * out.taught).sum().backward()
    for elsewhere in range(3):  # control
        passed = [value.to("meta") if i == elsewhere else value for i, value in enumerate((ids, mask, labels))]
        with pytest.raises(NotImplementedError, match="meta"):
            lm(*passed, return_logits=False, teacher=teacher)


@pytest.mark.gpu
@pytest.mark.parametrize("teacher", [None, Teacher()], ids=["labels", "teacher"])
@pytest.mark.parametrize("beacon", [MIXED, SELECT, UNEVEN], ids=["interleave", "select", "head budgets"])
def test_a_training_step_does_not_wait_for_the_gpu(beacon: BeaconConfig, teacher: Teacher | None) -> None:
    lm, ids = tiny("qwen3", beacon, dtype=torch.bfloat16, head_dim=64).cuda(), tokens(3, 53)
    mask = (torch.arange(53) < torch.tensor([53, 20, 41])[:, None]).long()
    labels = ids.masked_fill((mask == 0) | (ids % 3 == 0), -100)

    def step(ids: Tensor) -> None:
        out = lm(ids, mask, labels, return_logits=False, teacher=teacher)
        out.token_loss.sum().backward()

    for _ in range(2):
        step(ids)  # kernels are made
    try:
        torch.cuda.set_sync_debug_mode("error")
        step(ids)
        with pytest.raises(RuntimeError, match="synchronizing"):
            step(ids.cuda())
    finally:
        torch.cuda.set_sync_debug_mode("default")
