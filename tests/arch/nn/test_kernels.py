"""The attention kernels: the sdpa loop against softmax written out, the others by what they hand to their library."""

import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.attention.varlen as torch_varlen
from hypothesis import given
from torch import Tensor

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.nn import kernels
from beacon_lit.arch.plan.build import build_layout
from beacon_lit.arch.plan.kinds import Sliding, kind_of
from beacon_lit.arch.plan.layout import Layout
from beacon_lit.arch.plan.windows import plan
from tests.arch.cases import Case, cases
from tests.arch.tiny import assert_close, examples, hf_config, tiny, tokens

HEADS, GROUPS, WIDTH, SCALE = 4, 2, 8, 0.3
CAP = 0.5  # products of the tests reach 3 and more
BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, overlap=3, placement="interleave")
Inputs = tuple[Tensor, Tensor, Tensor]


def layout_of(case: Case) -> Layout:
    return build_layout(plan(case.lengths, case.ratios, case.beacon, case.unfinished), case.beacon)


def qkv(layout: Layout, dtype: torch.dtype = torch.float64, device: str = "cpu", width: int = WIDTH) -> Inputs:
    """Random q (P, N, H), k and v (S, K, H)."""
    torch.manual_seed(0)
    q = torch.randn(len(layout.q_index), HEADS, width)
    k, v = torch.randn(2, len(layout.k_index), GROUPS, width)
    return tuple(x.to(device, dtype) for x in (q, k, v))


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, visible: Callable[[int, int], bool], cap: float = 0.0
) -> Tensor:
    """One window, one head and one query at a time. A cap of 0 is none."""
    out = torch.empty_like(q)
    for head in range(q.shape[1]):
        group = head // (q.shape[1] // k.shape[1])
        for i in range(len(q)):
            seen = [j for j in range(len(k)) if visible(i, j)]
            scores = k[seen, group] @ q[i, head] * scale
            scores = cap * (scores / cap).tanh() if cap else scores
            out[i, head] = scores.softmax(0) @ v[seen, group]
    return out


def reference(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, scale: float, left: int = -1, cap: float = 0.0
) -> Tensor:
    """The contract of variable-length causal attention, aligned at the end; `left` keys before a query's, or all."""
    out = []
    for i in range(len(cu_q) - 1):
        queries, keys = slice(cu_q[i], cu_q[i + 1]), slice(cu_k[i], cu_k[i + 1])
        earlier = int(cu_k[i + 1] - cu_k[i] - cu_q[i + 1] + cu_q[i])

        def visible(query: int, key: int, earlier: int = earlier) -> bool:
            return key <= earlier + query and (left < 0 or key >= earlier + query - left)

        out.append(attend(q[queries], k[keys], v[keys], scale, visible, cap))
    return torch.cat(out)


@examples(50)
@given(case=cases(rows=2, placements=("interleave", "append")))
def test_sdpa(case: Case) -> None:
    layout = layout_of(case)
    q, k, v = qkv(layout)
    for cap in (None, CAP):
        expected = reference(q, k, v, layout.cu_q, layout.cu_k, SCALE, cap=cap or 0.0)
        assert_close(kernels.sdpa(q, k, v, layout, SCALE, cap), expected, 1e-12)


@examples(50)
@given(case=cases(rows=2, placements=("step-expansion",)))
def test_sdpa_masks_a_windows_beacons_from_its_raw_tokens(case: Case) -> None:
    layout = layout_of(case)
    q, k, v = qkv(layout)
    plain, capped = [], []
    for i, (queries, keys) in enumerate(layout.lengths):
        at_q, at_k = slice(layout.cu_q[i], layout.cu_q[i + 1]), slice(layout.cu_k[i], layout.cu_k[i + 1])
        beacon = layout.q_index[at_q] >= layout.raw

        def visible(query: int, key: int, earlier: int = keys - queries, beacon: Tensor = beacon) -> bool:
            own = key - earlier
            return own < 0 or (own <= query and bool(beacon[query] or not beacon[own]))

        plain.append(attend(q[at_q], k[at_k], v[at_k], SCALE, visible))
        capped.append(attend(q[at_q], k[at_k], v[at_k], SCALE, visible, CAP))
    assert_close(kernels.sdpa(q, k, v, layout, SCALE), torch.cat(plain), 1e-12)
    assert_close(kernels.sdpa(q, k, v, layout, SCALE, CAP), torch.cat(capped), 1e-12)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of packages that kernels find installed; at first none."""
    names: set[str] = set()
    monkeypatch.setattr(kernels, "_installed", names.__contains__)
    return names


@pytest.fixture
def flash_package(monkeypatch: pytest.MonkeyPatch, installed: set[str]) -> list[dict[str, Any]]:
    """A stand-in for the package flash-attn; the arguments it was called with."""
    calls: list[dict[str, Any]] = []

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
        dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
    ):  # fmt: skip
        calls.append(lengths(max_seqlen_q, max_seqlen_k, cu_seqlens_q, cu_seqlens_k))
        assert causal and dropout_p == 0.0 and (window_size == (-1, -1) or window_size[1] == 0)
        return reference(q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale, window_size[0], softcap)

    put_in_place(monkeypatch, "flash_attn", flash_attn_varlen_func)
    installed.add("flash-attn")
    return calls


@pytest.fixture
def flash_4_package(monkeypatch: pytest.MonkeyPatch, installed: set[str]) -> Iterator[list[dict[str, Any]]]:
    """A stand-in for the package flash-attn-4, whose module is in the namespace of flash-attn."""
    calls: list[dict[str, Any]] = []

    def flash_attn_varlen_func(
        q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
        softmax_scale=None, causal=False, window_size=(None, None), softcap=0.0,
    ):  # fmt: skip
        calls.append(lengths(max_seqlen_q, max_seqlen_k, cu_seqlens_q, cu_seqlens_k))
        left, right = window_size
        assert (left, right, causal) == (None, None, True) or (right == 0 and not causal)
        left = -1 if left is None else left
        return reference(q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale, left, softcap), None

    put_in_place(monkeypatch, "flash_attn.cute", flash_attn_varlen_func)
    installed.add("flash-attn-4")
    kernels._cute.cache_clear()
    yield calls
    kernels._cute.cache_clear()


def lengths(max_seqlen_q: int, max_seqlen_k: int, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor) -> dict[str, Any]:
    """What `check_call` looks at."""
    return locals()


def put_in_place(monkeypatch: pytest.MonkeyPatch, module: str, function: Callable[..., Any]) -> None:
    package = ModuleType(module)
    package.flash_attn_varlen_func = function
    monkeypatch.setitem(sys.modules, module, package)


def stand_in(calls: list[dict[str, Any]], with_gqa_option: bool) -> Callable[..., Tensor]:
    """A stand-in for torch's varlen_attn, of torch 2.11 (no enable_gqa) or later."""

    def run(q, k, v, cu_q, cu_k, max_q, max_k, scale, window_size, **options) -> Tensor:
        calls.append(dict(max_q=max_q, max_k=max_k, cu_q=cu_q, cu_k=cu_k, **options))
        assert window_size[1] == 0
        return reference(q, k, v, cu_q, cu_k, scale, window_size[0])

    def old(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        return run(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window_size)

    def new(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
        return run(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window_size, enable_gqa=enable_gqa)

    return new if with_gqa_option else old


@pytest.fixture(params=[False, True], ids=["torch 2.11", "torch 2.12"])
def torch_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(torch_varlen, "varlen_attn", stand_in(calls, request.param))
    kernels._gqa_option.cache_clear()
    yield calls
    kernels._gqa_option.cache_clear()
    assert all(call.get("enable_gqa", True) for call in calls)
    assert all(("enable_gqa" in call) == request.param for call in calls)


@pytest.fixture
def case() -> Case:
    return Case(BEACON, (29, 12), ((2, 4, 0, 2), ("drop", 4)), "beacons", 0)


def test_flash_attn(case: Case, flash_package: list[dict[str, Any]]) -> None:
    layout = layout_of(case)
    q, k, v = qkv(layout)
    assert_close(kernels.flash_attn(q, k, v, layout, SCALE), kernels.sdpa(q, k, v, layout, SCALE), 1e-12)
    check_call(flash_package[0], layout)


def test_flash_attn_4(case: Case, flash_4_package: list[dict[str, Any]]) -> None:
    layout = layout_of(case)
    q, k, v = qkv(layout)
    assert_close(kernels.flash_attn_4(q, k, v, layout, SCALE), kernels.sdpa(q, k, v, layout, SCALE), 1e-12)
    check_call(flash_4_package[0], layout)


def test_varlen(case: Case, torch_kernel: list[dict[str, Any]]) -> None:
    layout = layout_of(case)
    q, k, v = qkv(layout)
    assert_close(kernels.varlen(q, k, v, layout, SCALE), kernels.sdpa(q, k, v, layout, SCALE), 1e-12)
    check_call(torch_kernel[0], layout)


@pytest.mark.parametrize("reach", [1, 5, 8, 11, 100])
def test_sliding_windows(
    case: Case, reach: int, flash_package: list, flash_4_package: list, torch_kernel: list
) -> None:
    rows = plan(case.lengths, case.ratios, case.beacon, case.unfinished)
    layout = build_layout(Sliding(reach).rows(rows, case.beacon), case.beacon, reach=reach)
    q, k, v = qkv(layout)
    expected = reference(q, k, v, layout.cu_q, layout.cu_k, SCALE, reach - 1)
    capped = reference(q, k, v, layout.cu_q, layout.cu_k, SCALE, reach - 1, CAP)
    for name, kernel in kernels.KERNELS.items():
        assert_close(kernel(q, k, v, layout, SCALE), expected, 1e-12, name)
        if name != "varlen":
            assert_close(kernel(q, k, v, layout, SCALE, CAP), capped, 1e-12, name)
    for calls in (flash_package, flash_4_package, torch_kernel):
        check_call(calls[0], layout)


def test_caps(case: Case, flash_package: list, flash_4_package: list, torch_kernel: list) -> None:
    layout = layout_of(case)
    q, k, v = qkv(layout)
    expected = reference(q, k, v, layout.cu_q, layout.cu_k, SCALE, cap=CAP)
    for name in ("flash_attn_4", "flash_attn", "sdpa"):
        assert_close(kernels.KERNELS[name](q, k, v, layout, SCALE, CAP), expected, 1e-12, name)
        without = kernels.KERNELS[name](q, k, v, layout, SCALE)  # the control: a cap that is left out shows
        assert (without - expected).abs().max() > 0.1
    with pytest.raises(ValueError, match=r"attn='varlen' has no soft cap of scores, .* is 0.5; allowed: auto, flash_a"):
        kernels.varlen(q, k, v, layout, SCALE, CAP)


def check_call(call: dict[str, Any], layout: Layout) -> None:
    """The libraries want int32 offsets and int maxima."""
    tensors = [value for value in call.values() if isinstance(value, Tensor)]
    assert [tensor.dtype for tensor in tensors] == [torch.int32] * 2
    assert {type(value) for value in call.values() if not isinstance(value, Tensor)} <= {int, bool}
    assert layout.max_q in call.values() and layout.max_k in call.values()


def test_a_model_runs_on_the_kernel_it_is_given(flash_package: list, flash_4_package: list, torch_kernel: list) -> None:
    lm, ids = tiny("qwen2", BEACON, dtype=torch.float64), tokens(2, 29)
    expected = lm(ids, ratios=2).logits
    of_kernel = {"flash_attn_4": flash_4_package, "flash_attn": flash_package, "varlen": torch_kernel, "sdpa": []}
    assert not any(of_kernel.values())  # on the CPU "auto" is sdpa
    for name, calls in of_kernel.items():
        lm.attn = name
        assert_close(lm(ids, ratios=2).logits, expected, 1e-9, name)
        assert len(calls) == (0 if name == "sdpa" else len(lm.model.layers))


def test_torchs_own_varlen_takes_what_we_pass() -> None:
    parameters = inspect.signature(torch_varlen.varlen_attn)
    parameters.bind(None, None, None, None, None, 1, 1, scale=1.0, window_size=(-1, 0), **kernels._gqa_option())
    assert "is_causal" not in kernels._gqa_option()


class Cuda:
    """What `pick_kernel` looks at, of a tensor on a GPU."""

    is_cuda, device = True, torch.device("cuda")

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


@pytest.mark.parametrize(
    ("packages", "capability", "expected", "capped"),
    [
        (set(), 9, kernels.varlen, kernels.sdpa),
        ({"flash-attn"}, 9, kernels.flash_attn, kernels.flash_attn),
        ({"flash-attn", "flash-attn-4"}, 9, kernels.flash_attn_4, kernels.flash_attn_4),
        ({"flash-attn-4"}, 10, kernels.flash_attn_4, kernels.sdpa),
        ({"flash-attn", "flash-attn-4"}, 10, kernels.flash_attn_4, kernels.flash_attn),
        ({"flash-attn-4"}, 8, kernels.varlen, kernels.sdpa),
        ({"flash-attn", "flash-attn-4"}, 8, kernels.flash_attn, kernels.flash_attn),
    ],
)
def test_auto(
    case: Case,
    installed: set[str],
    packages: set[str],
    capability: int,
    expected: kernels.Kernel,
    capped: kernels.Kernel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 0))
    installed |= packages
    layout = layout_of(case)
    for dtype in (torch.bfloat16, torch.float16):
        assert kernels.pick_kernel("auto", Cuda(dtype), layout) is expected
        assert kernels.pick_kernel("auto", Cuda(dtype), layout, CAP) is capped
        assert kernels.pick_kernel("varlen", Cuda(dtype), layout) is kernels.varlen
    assert kernels.pick_kernel("auto", Cuda(torch.float32), layout) is kernels.sdpa
    assert kernels.pick_kernel("auto", torch.zeros(1, dtype=torch.bfloat16), layout) is kernels.sdpa


def test_auto_masks_with_sdpa(installed: set[str]) -> None:
    installed.add("flash-attn")
    beacon = BeaconConfig(window=8, ratios=2, placement="step-expansion")
    masked = layout_of(Case(beacon, (29,), ((2, 2, 2, 2),), "raw", 0))
    assert kernels.pick_kernel("auto", Cuda(torch.bfloat16), masked) is kernels.sdpa
    nothing_to_mask = layout_of(Case(beacon, (8,), ((2,),), "raw", 0))
    assert kernels.pick_kernel("auto", Cuda(torch.bfloat16), nothing_to_mask) is kernels.flash_attn


def test_packages_are_found_by_their_own_names() -> None:
    """The two packages of FlashAttention share a module, so that a module found says nothing."""
    assert kernels._installed("torch") and not kernels._installed("no-such-package")


def test_kernel_names_are_checked(installed: set[str]) -> None:
    with pytest.raises(ValueError, match=r"attn='eager'.*auto, flash_attn_4, flash_attn, varlen, sdpa"):
        BeaconLM.from_config(hf_config("qwen2"), BEACON, attn="eager")
    with pytest.raises(ValueError, match=r"attn='flash_attn' needs the package flash-attn: .*\[flash\]"):
        BeaconLM.from_config(hf_config("qwen2"), BEACON, attn="flash_attn")
    with pytest.raises(ValueError, match=r"attn='flash_attn_4' needs the package flash-attn-4: .*\[flash4\]"):
        BeaconLM.from_config(hf_config("qwen2"), BEACON, attn="flash_attn_4")
    installed.add("flash-attn-4")
    beacon = BeaconConfig(window=8, ratios=2, placement="step-expansion")
    for name in ("varlen", "flash_attn_4"):
        with pytest.raises(ValueError, match=rf"attn='{name}'.*placement='step-expansion'.*auto, sdpa"):
            BeaconLM.from_config(hf_config("qwen2"), beacon, attn=name)
    with pytest.raises(
        ValueError, match=r"attn='varlen' has no soft cap of scores, and this backbone's is 2\.0; allow"
    ):
        BeaconLM.from_config(hf_config("gemma2"), BEACON, attn="varlen")
    assert BeaconLM.from_config(hf_config("gemma2"), BEACON, attn="flash_attn_4").attn == "flash_attn_4"
    uncapped = hf_config("gemma2", attn_logit_softcapping=None)
    assert BeaconLM.from_config(uncapped, BEACON, attn="varlen").attn == "varlen"
    assert BeaconLM.from_config(hf_config("qwen2"), BEACON, attn="sdpa").attn == "sdpa"


@pytest.mark.gpu
@pytest.mark.parametrize("reach", [None, 5, 40, 1000])
@pytest.mark.parametrize("name", ["varlen", "flash_attn_4", "auto"])
def test_half_precision_kernels_on_a_gpu(name: str, reach: int | None) -> None:
    compare_on_a_gpu(name, reach, width=64)


@pytest.mark.gpu
@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("reach", [None, 40])
@pytest.mark.parametrize("name", ["flash_attn_4", "flash_attn", "sdpa"])
def test_caps_on_a_gpu(name: str, reach: int | None, width: int) -> None:
    """The heads of Gemma 2 have 256 (2B, 9B) or 128 numbers (27B)."""
    compare_on_a_gpu(name, reach, width, CAP)


def compare_on_a_gpu(name: str, reach: int | None, width: int, cap: float | None = None) -> None:
    """bf16 on the GPU against sdpa in float32: outputs and gradients, relative to their largest value."""
    if name in kernels.PACKAGES and not kernels._installed(kernels.PACKAGES[name][0]):
        pytest.skip(f"{kernels.PACKAGES[name][0]} is not installed")
    beacon = BeaconConfig(window=64, ratios=(2, 8), sink=4, overlap=16, placement="interleave")
    lengths, ratios = (300, 77), ((2, 8, 0, 2, 8), ("drop", 2))
    rows = plan(lengths, ratios, beacon, "beacons")
    layout = build_layout(kind_of(reach).rows(rows, beacon), beacon, reach=reach)
    wide = [x.requires_grad_(True) for x in qkv(layout, torch.float32, "cuda", width)]
    half = [x.requires_grad_(True) for x in qkv(layout, torch.bfloat16, "cuda", width)]
    layout = layout.to(torch.device("cuda"))
    kernel = kernels.pick_kernel(name, half[0], layout, cap)
    assert kernel is not kernels.sdpa or name == "sdpa"
    scale = width**-0.5
    expected, actual = kernels.sdpa(*wide, layout, scale, cap), kernel(*half, layout, scale, cap)
    upstream = torch.randn_like(expected)
    wanted, found = (
        torch.autograd.grad(out, inputs, upstream.to(out.dtype)) for out, inputs in ((expected, wide), (actual, half))
    )
    for a, b in zip([actual, *found], [expected, *wanted], strict=True):
        assert (a.float() - b).norm() / b.norm() < 1e-2


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_kernels_get_half_precision_under_autocast(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With float32 weights, as they are trained; float32 would rule out the fast kernels."""
    seen = set()

    def spy(q: Tensor, k: Tensor, v: Tensor, *others: Any) -> Tensor:
        seen.update((q.dtype, k.dtype, v.dtype))
        return kernels.sdpa(q, k, v, *others)

    monkeypatch.setattr("beacon_lit.arch.nn.windows.pick_kernel", lambda *_: spy)
    lm = tiny(family, BEACON).requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        out = lm(tokens(1, 29), labels=tokens(1, 29), ratios=2)
        cache = lm.eval().compress(tokens(1, 20), ratios=2)
        lm(tokens(1, 5), cache=cache, ratios=2)
    assert seen == {torch.bfloat16}
    out.loss.backward()
    assert {parameter.grad.dtype for parameter in lm.parameters()} == {torch.float32}
