"""The chunked loss of a language-model head against plain cross entropy."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from beacon_lit import BeaconConfig
from beacon_lit.arch.nn import loss as loss_module
from beacon_lit.arch.nn.logits import LogitScale
from beacon_lit.arch.nn.loss import LossHead, divergence_and_slope, loss_and_slope
from tests.arch.tiny import VOCABULARY, assert_close, examples, gradients, tiny, tokens

BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, overlap=3, placement="interleave")
WIDTH = 16
SCALES = (LogitScale(), LogitScale(1.7), LogitScale(cap=3.0), LogitScale(0.5, 3.0))


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


@pytest.fixture(params=[1, 3 * VOCABULARY, 10**9], ids=["one token a chunk", "three tokens a chunk", "one chunk"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", request.param)
    return request.param


def head(
    trained: bool, dtype: torch.dtype = torch.float64, bias: bool = False, scale: LogitScale = SCALES[0]
) -> LossHead:
    torch.manual_seed(0)
    layer = LossHead(WIDTH, VOCABULARY, bias=bias, dtype=dtype).requires_grad_(trained)
    layer.compute = loss_and_slope
    layer.scale = scale
    return layer


def logits_of(output: Tensor, scale: LogitScale) -> Tensor:
    """By the definition; autograd finds the slope."""
    output = output / scale.divisor
    return output if scale.cap is None else scale.cap * (output / scale.cap).tanh()


def data(count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    hidden = (4 * torch.randn(count, WIDTH, dtype=dtype)).requires_grad_(True)
    targets = tokens(count)
    targets[torch.rand(count) < 0.3] = -100
    return hidden, targets


@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_values_and_gradients(chunk: int, trained: bool, count: int, bias: bool, scale: LogitScale) -> None:
    layer, (hidden, targets) = head(trained, bias=bias, scale=scale), data(count)
    expected = F.cross_entropy(logits_of(layer(hidden), scale), targets, reduction="none")
    actual = layer(hidden, targets)
    assert actual.shape == targets.shape and actual.dtype == torch.float32
    assert_close(actual, expected.float(), 1e-6)
    assert not actual[targets == -100].any()
    wanted = [hidden, *(layer.parameters() if trained else ())]
    share = torch.rand(count, dtype=torch.float64)  # not every loss counts alike
    for a, b in zip(
        torch.autograd.grad((actual * share).sum(), wanted),
        torch.autograd.grad((expected * share).sum(), wanted),
        strict=True,
    ):
        assert_close(a, b, 1e-6)


@examples(50)
@given(count=st.integers(1, 12), seed=st.integers(0, 99), scale=st.sampled_from(SCALES))
def test_loss_and_slope(count: int, seed: int, scale: LogitScale) -> None:
    output = 10 * torch.randn(count, 7, generator=torch.Generator().manual_seed(seed))
    output.requires_grad_(True)
    labels = torch.randint(7, (count,), generator=torch.Generator().manual_seed(seed))
    losses, slope = loss_and_slope(output.detach(), labels, scale)
    expected = F.cross_entropy(logits_of(output, scale), labels, reduction="none")
    torch.testing.assert_close(losses, expected.detach(), atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(expected.sum(), output)
    torch.testing.assert_close(slope, gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_losses_are_compiled_once_for_any_length(scale: LogitScale) -> None:
    """As `fuse` compiles them, without a break in the graph."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compute, diverge = (
        torch.compile(loss, backend=counter, dynamic=True, fullgraph=True)
        for loss in (loss_and_slope, divergence_and_slope)
    )
    for count in (3, 7, 20):
        output, teacher = 5 * torch.randn(2, count, 11)
        labels = tokens(count) % 11
        for found, expected in (
            (compute(output, labels, scale, True), loss_and_slope(output, labels, scale)),
            (diverge(output, teacher, scale, 2.0, True), divergence_and_slope(output, teacher, scale, 2.0)),
        ):
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b)
    assert counter.frame_count == 2


def test_a_cap_that_is_left_out_shows() -> None:
    """In the values; and in the slope alone, where it is not chained."""
    (hidden, targets), capped = data(20), LogitScale(cap=3.0)
    layer = head(False, scale=capped)
    right = layer(hidden, targets)
    assert (head(False)(hidden, targets) - right).abs().max() > 1

    class Unchained(LogitScale):
        def chain(self, slope: Tensor, logits: Tensor) -> Tensor:
            return slope

    (gradient,) = torch.autograd.grad(right.sum(), hidden)
    layer.scale = Unchained(cap=3.0)
    wrong = layer(hidden, targets)
    assert torch.equal(wrong, right)
    assert (torch.autograd.grad(wrong.sum(), hidden)[0] - gradient).abs().max() > 0.1


@pytest.fixture
def seen() -> list[tuple[int, Tensor | None]]:
    """Of each chunk of losses, the number of tokens and the slope; filled by `watched`."""
    return []


@pytest.fixture
def watched(seen: list[tuple[int, Tensor | None]]) -> LossHead:
    def compute(output: Tensor, labels: Tensor, scale: LogitScale, sloped: bool) -> tuple[Tensor, Tensor | None]:
        losses, slope = loss_and_slope(output, labels, scale, sloped)
        seen.append((len(output), slope))
        return losses, slope

    layer = head(trained=False)
    layer.compute = compute
    return layer


def test_no_slope_is_computed_where_no_gradient_is_asked_for(watched: LossHead, seen: list) -> None:
    hidden, targets = data(20)
    expected = watched(hidden, targets)
    with torch.no_grad():
        assert torch.equal(watched(hidden, targets), expected)
    assert torch.equal(watched(hidden.detach(), targets), expected)
    assert [slope is None for _, slope in seen] == [False, True, True]


def test_chunks_are_smaller_on_a_cpu(watched: LossHead, seen: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CPU_CHUNK_ELEMENTS", 2 * VOCABULARY)
    watched(*data(20))
    assert len(seen) > 2 and max(tokens for tokens, _ in seen) == 2


@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("trained", [False, True])
def test_bfloat16_losses_are_float32(trained: bool, scale: LogitScale) -> None:
    layer, (hidden, targets) = head(trained, torch.bfloat16, scale=scale), data(20, torch.bfloat16)
    losses = layer(hidden, targets)
    expected = F.cross_entropy(logits_of(layer(hidden), scale).float(), targets, reduction="none")
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected)
    (actual,) = torch.autograd.grad(losses.sum(), hidden)
    (wanted,) = torch.autograd.grad(expected.sum(), hidden)
    assert actual.dtype == torch.bfloat16
    assert_close(actual.float(), wanted.float(), 0.02)


@pytest.mark.parametrize("trained", [False, True])
def test_nothing_labelled(chunk: int, trained: bool) -> None:
    layer, (hidden, _) = head(trained), data(5)
    losses = layer(hidden, torch.full((5,), -100))
    assert losses.tolist() == [0] * 5
    (gradient,) = torch.autograd.grad(losses.sum(), hidden)
    assert not gradient.any()


def test_no_gradient_asked_none_kept(chunk: int) -> None:
    layer, (hidden, targets) = head(False), data(20)
    with torch.no_grad():
        losses = layer(hidden, targets)
    assert not losses.requires_grad
    assert torch.equal(losses, layer(hidden, targets))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("length", [5, 30])
def test_a_batch_without_labels_has_loss_0_and_zero_gradients(length: int, checkpointing: bool) -> None:
    lm, ids = tiny("qwen2", BEACON), tokens(2, length)
    if checkpointing:
        lm.checkpoint_activations()
    labels = torch.full_like(ids, -100)
    labels[:, 0] = 5  # nothing predicts a row's first token
    out = lm(ids, labels=labels, ratios=2)
    out.loss.backward()
    assert out.loss == 0 and not out.token_loss.any()
    for parameter in lm.beacon_parameters():
        assert parameter.grad is not None and not parameter.grad.any()


@pytest.mark.parametrize("trained", [False, True])
def test_chunks_change_nothing(chunk: int, trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, ids = tiny("qwen2", BEACON, dtype=torch.float64), tokens(2, 30)
    lm.requires_grad_(trained)
    for parameter in lm.beacon_parameters():
        parameter.requires_grad_(True)
    out = lm(ids, labels=ids, ratios=2)
    targets = ids[:, 1:]
    expected = F.cross_entropy(out.logits[:, :-1].transpose(1, 2), targets)
    assert_close(out.loss, expected.float(), 1e-6)
    wanted = gradients(lm, expected, retain=True)
    for name, gradient in gradients(lm, out.loss).items():
        assert_close(gradient, wanted[name], 2e-6, name)


@pytest.mark.parametrize("trained", [False, True])
def test_no_logits_are_kept_for_the_backward_pass(chunk: int, trained: bool) -> None:
    layer, (hidden, targets), kept = head(trained), data(20), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        losses = layer(hidden, targets)
    assert losses.requires_grad and kept
    assert all(VOCABULARY not in shape or shape == layer.weight.shape for shape in kept)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_logits_of_a_step_never_exist_whole(trained: bool, dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """256 tokens of a vocabulary of 997, at most 32 of them at once. Weights are 997 x 32 elements."""
    vocabulary, chunk = 997, 32
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", chunk * vocabulary)
    lm, ids = tiny("qwen2", BEACON, vocab_size=vocabulary).requires_grad_(trained), tokens(4, 64)
    for parameter in lm.beacon_parameters():
        parameter.requires_grad_(True)

    def step() -> None:
        if dense:
            loss = lm.dense_token_loss(ids, None, labels=ids).sum()
        else:
            loss = lm(ids, labels=ids, ratios=4, return_logits=False).loss
        if loss.requires_grad:
            loss.backward()

    with Largest() as largest:
        step()
    assert largest.elements <= chunk * vocabulary
    with Largest() as largest:  # the control: the measure does see logits
        lm(ids, ratios=4)
    assert largest.elements == ids.numel() * vocabulary
