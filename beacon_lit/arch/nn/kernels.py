"""Variable-length attention in four kernels with one contract.

Every kernel takes q (P, N, H), k and v (S, K, H) in window order, N a multiple of K (grouped queries), a `Layout`, the
factor of scores, and their soft cap or None (see `nn.logits`), and returns (P, N, H). Query i of a window's T sees the
first `keys - T + 1 + i` of the window's keys, or the last `reach` of these in layers with a sliding window.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from beacon_lit.arch.nn.logits import soft_cap
from beacon_lit.arch.placements import find_placement
from beacon_lit.arch.plan.layout import Layout


class Kernel(Protocol):
    """A kernel, see above."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, cap: float | None = None
    ) -> Tensor: ...


def flash_attn(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, cap: float | None = None) -> Tensor:
    """Run FlashAttention-2 from the package flash-attn. CUDA, bf16 or fp16."""
    from flash_attn import flash_attn_varlen_func

    lengths = (layout.cu_q, layout.cu_k, layout.max_q, layout.max_k)
    band = {} if layout.reach is None else {"window_size": _band(layout)}
    return flash_attn_varlen_func(q, k, v, *lengths, softmax_scale=scale, causal=True, softcap=cap or 0.0, **band)


def flash_attn_4(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, cap: float | None = None) -> Tensor:
    """Run FlashAttention-4 from the package flash-attn-4. CUDA with compute capability 9 or more, bf16 or fp16."""
    flash_attn_varlen_func = _cute()
    lengths = {"cu_seqlens_q": layout.cu_q, "cu_seqlens_k": layout.cu_k}
    longest = {"max_seqlen_q": layout.max_q, "max_seqlen_k": layout.max_k}
    band = {"causal": True} if layout.reach is None else {"window_size": _band(layout)}
    out, _ = flash_attn_varlen_func(q, k, v, **lengths, **longest, softmax_scale=scale, softcap=cap or 0.0, **band)
    return out


def varlen(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, cap: float | None = None) -> Tensor:
    """Run the same kernel from torch (`torch.nn.attention.varlen`, torch >= 2.11). CUDA, bf16 or fp16.

    Raises:
        ValueError: a cap, which the kernel does not have.
    """
    from torch.nn.attention.varlen import varlen_attn

    _check_cap("varlen", cap)
    lengths = (layout.cu_q, layout.cu_k, layout.max_q, layout.max_k)
    return cast(Tensor, varlen_attn(q, k, v, *lengths, scale=scale, window_size=_band(layout), **_gqa_option()))


def _band(layout: Layout) -> tuple[int, int]:
    """Return how many keys a query sees to the left and to the right of its own; -1: all."""
    return -1 if layout.reach is None else layout.reach - 1, 0


@cache
def _gqa_option() -> dict[str, Any]:
    """Return the argument that groups queries. torch 2.11 groups them without one; later releases need it."""
    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


def sdpa(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, cap: float | None = None) -> Tensor:
    """Loop over windows with `scaled_dot_product_attention`: any device and dtype, and the only kernel with masks.

    With a cap, which that function does not have, the loop is over `capped_attention`.
    """
    queries, keys = zip(*layout.lengths, strict=True)
    windows = zip(q.split(queries), k.split(keys), v.split(keys), masks(layout), strict=True)
    out = []
    for q_i, k_i, v_i, mask in windows:
        q_i, k_i, v_i = (x.transpose(0, 1)[None] for x in (q_i, k_i, v_i))
        if mask is not None or cap is not None:
            k_i, v_i = (x.repeat_interleave(q_i.shape[1] // x.shape[1], dim=1) for x in (k_i, v_i))
        if cap is not None:
            o_i = capped_attention(q_i, k_i, v_i, mask, scale, cap)
        else:
            causal = mask is None and q_i.shape[2] > 1
            grouped = q_i.shape[1] != k_i.shape[1]
            o_i = F.scaled_dot_product_attention(
                q_i, k_i, v_i, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
            )
        out.append(o_i[0].transpose(0, 1))
    return torch.cat(out)


def capped_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, cap: float) -> Tensor:
    """Attend with capped scores, in the operations of transformers' eager attention, so that results agree bit for bit.

    Args:
        q: (1, N, T, H).
        k, v: (1, N, S, H).
        mask: (T, S) bool, True where a query sees a key; None: T = S, by the causal rule.
        scale: factor of the dot products.
        cap: soft cap of the products.

    Returns:
        (1, N, T, H). All T x S scores of a window exist at once.
    """
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    scores = soft_cap(torch.matmul(q, k.transpose(2, 3)) * scale, cap).masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    return torch.matmul(weights, v)


def masks(layout: Layout) -> Iterator[Tensor | None]:
    """Yield a (queries, keys) bool mask per window: the causal rule, aligned at the end, and the placement's rule.

    In layers with a sliding window, keys beyond its reach are hidden as well. None for a window that sees its own
    tokens only, by the causal rule alone.
    """
    end = 0
    for queries, keys in layout.lengths:
        end += keys
        # From `reach` tokens on transformers masks as well, whose results are to be equal bit for bit.
        within = layout.reach is None or keys < layout.reach
        if layout.visibility is None and queries == keys and within:
            yield None
            continue
        mask = torch.ones(queries, keys, dtype=torch.bool, device=layout.q_index.device).tril(keys - queries)
        if layout.visibility is not None:
            mask &= layout.visibility.mask(slice(end - queries, end), slice(end - keys, end))
        yield mask if layout.reach is None else mask.triu(keys - queries - layout.reach + 1)


KERNELS: dict[str, Kernel] = {"flash_attn_4": flash_attn_4, "flash_attn": flash_attn, "varlen": varlen, "sdpa": sdpa}
PACKAGES = {"flash_attn_4": ("flash-attn-4", "flash4"), "flash_attn": ("flash-attn", "flash")}  # and our extras


def check_kernel(name: str, placement: str, cap: float | None = None) -> None:
    """Raise a ValueError unless `name` is "auto" or an installed kernel that supports the placement and the cap."""
    if name not in ("auto", *KERNELS):
        raise ValueError(f"attn={name!r} is not allowed; allowed: auto, {', '.join(KERNELS)}")
    if name in PACKAGES and not _installed(PACKAGES[name][0]):
        package, extra = PACKAGES[name]
        raise ValueError(f"attn={name!r} needs the package {package}: pip install 'beacon_lit[{extra}]'")
    if name not in ("auto", "sdpa") and find_placement(placement).masked:
        raise ValueError(f"attn={name!r} has no masks, which placement={placement!r} needs; allowed: auto, sdpa")
    _check_cap(name, cap)


def _check_cap(name: str, cap: float | None) -> None:
    if name == "varlen" and cap is not None:
        raise ValueError(
            f"attn='varlen' has no soft cap of scores, and this backbone's is {cap}; "
            f"allowed: auto, flash_attn_4, flash_attn, sdpa"
        )


def pick_kernel(name: str, q: Tensor, layout: Layout, cap: float | None = None) -> Kernel:
    """Return the kernel `name`.

    "auto" is, for half precision on CUDA, the `fastest` kernel, unless there are masks; otherwise it is sdpa.
    """
    if name != "auto":
        return KERNELS[name]
    if not q.is_cuda or q.dtype not in (torch.bfloat16, torch.float16) or layout.visibility is not None:
        return sdpa
    return KERNELS[fastest(q.device, cap)]


def fastest(device: torch.device, cap: float | None = None) -> str:
    """Return the name of the fastest installed kernel for half precision on a CUDA device.

    That is the first of flash_attn_4 (compute capability 9 or more), flash_attn and varlen. With a cap of scores,
    flash_attn_4 is for compute capability 9 alone, since later GPUs have no gradients for all head sizes, and sdpa
    stands in for varlen.
    """
    if _installed("flash-attn-4"):
        capability = torch.cuda.get_device_capability(device)[0]
        if capability == 9 or (capability > 9 and cap is None):
            return "flash_attn_4"
    if _installed("flash-attn"):
        return "flash_attn"
    return "varlen" if cap is None else "sdpa"


@cache
def _cute() -> Callable[..., Any]:
    """Import FlashAttention-4, which takes seconds, and silence the warnings of its compiler."""
    from flash_attn.cute import flash_attn_varlen_func

    warnings.filterwarnings("ignore", r"Argument aux_data \(position \d+\) cannot be converted to a JitArgument")
    return flash_attn_varlen_func


@cache
def _installed(package: str) -> bool:
    """Whether a package is installed. The module `flash_attn` does not tell: both packages have it."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
