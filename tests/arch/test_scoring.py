"""Divergence from the dense backbone, which reads the same rows: against full logits and autograd, in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch import Teacher
from beacon_lit.arch.nn import loss as loss_module
from beacon_lit.arch.nn.logits import LogitScale
from beacon_lit.arch.nn.loss import divergence_and_slope
from tests.arch.nn.test_loss import SCALES, Largest, logits_of
from tests.arch.tiny import ALL, VOCABULARY, assert_close, examples, gradients, tiny, tokens

WINDOW = 8
BEACON = BeaconConfig(window=WINDOW, ratios=(2, 4), sink=2, overlap=3, placement="interleave")


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels (3, 40): one row padded on the left, one on the right, and a prompt without loss."""
    ids = tokens(3, 40)
    mask = torch.ones_like(ids)
    mask[0, :5], mask[1, 30:] = 0, 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[2, 10:20] = -100
    return ids, mask, labels


def expected(lm: BeaconLM, temperature: float, ratios: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """(B, L) cross entropy, KL and where they are, of `batch`, from logits that exist whole."""
    ids, mask, labels = batch()
    own = lm(ids, mask, ratios=ratios).logits[:, :-1]
    with torch.no_grad():
        dense = torch.zeros_like(own)
        for row, seen in enumerate(mask[:, :-1].bool()):  # in float64, attention written out is NaN with padding
            dense[row, seen] = lm.dense(ids[row, :-1][seen][None]).logits[0]
        dense = (dense / temperature).softmax(-1)
    where = (labels[:, 1:] != -100) & (mask[:, :-1] == 1)
    losses = F.cross_entropy(own.transpose(1, 2), labels[:, 1:], reduction="none") * where
    kl = (dense * (dense.log() - (own / temperature).log_softmax(-1))).sum(-1) * where
    return F.pad(losses, (1, 0)), F.pad(kl, (1, 0)), F.pad(where, (1, 0))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("chunk", [1, 10 * VOCABULARY, 10**9], ids=["one token", "five tokens", "one chunk"])
@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_values_and_gradients(
    family: str, chunk: int, trained: bool, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", chunk)
    lm = tiny(family, BEACON, dtype=torch.float64).requires_grad_(trained)
    for parameter in lm.beacon_parameters():
        parameter.requires_grad_(True)
    ids, mask, labels = batch()
    out = lm(ids, mask, labels=labels, ratios=2, return_logits=False, teacher=Teacher(temperature))
    losses, kl, where = expected(lm, temperature)
    assert torch.equal(out.taught, where) and out.token_kl.dtype == torch.float32
    assert_close(out.token_loss, losses.float(), 1e-6)
    assert_close(out.token_kl, kl.float(), 1e-6)
    assert_close(out.loss, (losses.sum() / where.sum()).float(), 1e-6)
    one, two = torch.rand(2, *ids.shape, dtype=torch.float64)  # not every token counts alike
    wanted = gradients(lm, (losses * one + kl * two).sum())
    assert max(float(gradient.abs().max()) for gradient in wanted.values()) > 0.1
    for name, gradient in gradients(lm, (out.token_loss * one + out.token_kl * two).sum()).items():
        assert_close(gradient, wanted[name], 1e-5, name)


@pytest.mark.parametrize("family", ALL)
def test_every_family(family: str) -> None:
    lm, (ids, mask, labels) = tiny(family, BEACON), batch()
    out = lm(ids, mask, labels=labels, ratios=4, teacher=Teacher())
    losses, kl, _ = expected(lm, 1.0, ratios=4)
    assert_close(out.token_kl, kl, 1e-4)
    assert_close(out.token_loss, losses, 1e-4)
    assert torch.equal(out.token_loss, lm(ids, mask, labels=labels, ratios=4).token_loss)


@pytest.mark.parametrize("placement", ["append", "step-expansion"])
def test_every_placement(placement: str) -> None:
    lm = tiny("llama", BeaconConfig(window=WINDOW, ratios=2, placement=placement))
    ids, mask, labels = batch()
    assert_close(lm(ids, mask, labels=labels, teacher=Teacher()).token_kl, expected(lm, 1.0)[1], 1e-4)


def test_within_a_window_student_and_teacher_are_one() -> None:
    lm, ids = tiny("qwen2", BEACON), tokens(3, WINDOW)
    out = lm(ids, labels=ids, ratios=2, teacher=Teacher())
    out.token_kl.sum().backward()
    assert out.taught[:, 1:].all() and not out.token_kl.any()
    assert not any(parameter.grad.any() for parameter in lm.beacon_parameters())
    longer = tokens(3, WINDOW + 2)
    kl = lm(longer, labels=longer, ratios=2, teacher=Teacher()).token_kl
    assert (kl[:, -1] > 1e-3).all()  # predicted behind the first window
    assert (kl >= -1e-6).all()


@pytest.mark.parametrize(("length", "positions"), [(12, 512), (None, 30), (100, 30)])
def test_a_teacher_that_reads_the_start_of_each_row(length: int | None, positions: int) -> None:
    lm, (ids, mask, labels) = tiny("qwen2", BEACON, max_position_embeddings=positions), batch()
    out = lm(ids, mask, labels=labels, ratios=4, teacher=Teacher(length=length))
    reads = min(length or positions, positions)
    kl, where = expected(lm, 1.0, ratios=4)[1:]
    token = mask.cumsum(1)  # 1 for a row's first token; what has read n tokens predicts token n + 1
    assert torch.equal(out.taught, where & (token <= reads + 1)) and (where & (token > reads + 1)).any()
    assert_close(out.token_kl, kl * out.taught, 1e-4)
    assert lm(ids, mask, labels=labels, ratios=4, teacher=Teacher(length=2)).taught.sum(1).tolist() == [2, 2, 2]


@pytest.mark.parametrize("layers", [1, None])
def test_recomputed_activations_change_nothing(layers: int | None) -> None:
    lm, (ids, mask, labels) = tiny("qwen2", BEACON, dtype=torch.float64), batch()
    plain = gradients(lm, lm(ids, mask, labels=labels, ratios=2, teacher=Teacher()).token_kl.sum())
    lm.checkpoint_activations(layers)
    again = gradients(lm, lm(ids, mask, labels=labels, ratios=2, teacher=Teacher()).token_kl.sum())
    assert all(torch.equal(again[name], gradient) for name, gradient in plain.items())


def test_the_teacher_draws_no_ratios() -> None:
    one, two, (ids, mask, labels) = tiny("qwen2", BEACON), tiny("qwen2", BEACON), batch()
    for _ in range(3):
        expected_loss = one(ids, mask, labels=labels).token_loss
        assert torch.equal(two(ids, mask, labels=labels, teacher=Teacher()).token_loss, expected_loss)
    assert one.draw == two.draw


def test_nothing_labelled() -> None:
    lm, ids = tiny("qwen2", BEACON), tokens(2, 20)
    out = lm(ids, labels=torch.full_like(ids, -100), ratios=2, teacher=Teacher())
    (out.token_kl + out.token_loss).sum().backward()
    assert out.loss == 0 and not out.taught.any()
    assert all(not parameter.grad.any() for parameter in lm.beacon_parameters())


@examples(50)
@given(count=st.integers(1, 12), seed=st.integers(0, 99), temperature=st.floats(0.1, 10), scale=st.sampled_from(SCALES))
def test_divergence_and_slope(count: int, seed: int, temperature: float, scale: LogitScale) -> None:
    own, teacher = 5 * torch.randn(2, count, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    own.requires_grad_(True)
    values, slope = divergence_and_slope(own.detach(), teacher, scale, temperature)
    student, wanted = ((logits_of(output, scale) / temperature).log_softmax(-1) for output in (own, teacher))
    kl = F.kl_div(student, wanted, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(values, kl.detach().float(), atol=1e-4, rtol=1e-4)
    (gradient,) = torch.autograd.grad(kl.sum(), own)
    torch.testing.assert_close(slope, gradient, atol=1e-5, rtol=1e-4)


def test_bfloat16() -> None:
    lm, (ids, mask, labels) = tiny("qwen2", BEACON, dtype=torch.bfloat16), batch()
    out = lm(ids, mask, labels=labels, ratios=2, teacher=Teacher())
    exact = expected(lm.to(torch.float64), 1.0)[1]
    assert out.token_kl.dtype == torch.float32
    assert_close(out.token_kl.sum(), exact.sum().float(), 0.02)


@pytest.mark.parametrize("trained", [False, True])
def test_logits_of_a_step_never_exist_whole(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """256 tokens of a vocabulary of 997, at most 32 logits of them at once, the teacher's among them."""
    vocabulary, chunk = 997, 32
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", 2 * chunk * vocabulary)
    lm, ids = tiny("qwen2", BEACON, vocab_size=vocabulary).requires_grad_(trained), tokens(4, 64)
    for parameter in lm.beacon_parameters():
        parameter.requires_grad_(True)
    with Largest() as largest:
        out = lm(ids, labels=ids, ratios=4, return_logits=False, teacher=Teacher())
        (out.token_loss + out.token_kl).sum().backward()
    assert largest.elements <= chunk * vocabulary


@pytest.mark.parametrize("temperature", [0, -1, float("inf"), float("nan")])
def test_temperatures_that_are_none(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature={temperature}"):
        Teacher(temperature)


@pytest.mark.parametrize("length", [0, -3, 1.5, True])
def test_lengths_that_are_none(length: object) -> None:
    with pytest.raises(ValueError, match=f"length={length}"):
        Teacher(length=length)  # type: ignore[arg-type]


def test_a_teacher_needs_labels_and_whole_rows() -> None:
    lm, ids = tiny("qwen2", BEACON).eval(), tokens(1, 20)
    for options in ({}, {"labels": ids, "use_cache": True}, {"labels": ids, "cache": lm.compress(ids, ratios=2)}):
        with pytest.raises(ValueError, match="teacher="):
            lm(ids, ratios=2, teacher=Teacher(), **options)
