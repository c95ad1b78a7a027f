"""Measure what KV heads of the dense backbone retrieve: the attention that tokens receive while their text is repeated.

Shape legend: T tokens of the pass, C tokens of the text, N query heads, K KV heads, H head dim.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from beacon_lit.arch.nn.attention import BeaconAttention
from beacon_lit.arch.nn.decoder import Decoder
from beacon_lit.arch.nn.logits import soft_cap
from beacon_lit.arch.nn.own_maps import project

_WEIGHTS = 2**22  # attention weights that exist at a time; on a CPU more are slower


@torch.no_grad()
def repetition_importance(
    decoder: Decoder, text: Sequence[int], prompt: Sequence[int], layers: Sequence[int] | None = None
) -> Tensor:
    """Compute KVzip's importance of a text's tokens (arXiv 2505.23416, section 3.2) with the dense backbone.

    The backbone reads the text, a prompt that asks to repeat the text, and the text again, in one pass. The importance
    of a token for a KV head is the largest attention weight that the token receives from the prompt and the
    repetition, over the queries of all query heads that share the KV head.

    Args:
        decoder: the backbone's decoder, in eval mode.
        text: (C,) token ids.
        prompt: token ids between the text and its repetition.
        layers: layers to measure, which attend to all tokens before; default: all.

    Returns:
        (layers, K, C) float32 on the CPU, 0 to 1. Attention weights of one layer exist at a time, and of few queries.
    """
    ids = torch.tensor([[*text, *prompt, *text]], device=decoder.embed_tokens.weight.device)
    with _recorded(decoder, range(len(decoder.layers)) if layers is None else layers, len(text)) as found:
        decoder(input_ids=ids, use_cache=False)
    return torch.stack(found)


def attention_received(q: Tensor, k: Tensor, count: int, scaling: float, cap: float | None = None) -> Tensor:
    """Compute the largest causal attention weight that each of the first tokens receives from the tokens after these.

    Args:
        q: (T, N, H), after RoPE.
        k: (T, K, H), after RoPE.
        count: C, the first tokens.
        scaling: factor of the dot products.
        cap: soft cap of the products; None: there is none.

    Returns:
        (K, C) float32 or wider.
    """
    dtype = torch.promote_types(k.dtype, torch.float32)
    tokens, heads, _ = k.shape
    keys = k.to(dtype).permute(1, 2, 0)  # (K, H, T)
    queries = q.to(dtype).transpose(0, 1).unflatten(0, (heads, -1))  # (K, N / K, T, H)
    size = max(1, _WEIGHTS // (q.shape[1] * tokens))
    largest = k.new_zeros(heads, count, dtype=dtype)
    for start in range(count, tokens, size):
        stop = min(start + size, tokens)
        products = queries[:, :, start:stop] @ keys[:, None, :, :stop] * scaling
        scores = soft_cap(products, cap)  # (K, N / K, queries, stop)
        later = torch.ones(stop - start, stop - start, dtype=torch.bool, device=k.device).triu(1)
        scores[..., start:].masked_fill_(later, float("-inf"))
        largest = torch.maximum(largest, scores.softmax(-1)[..., :count].amax((1, 2)))
    return largest


@contextmanager
def _recorded(decoder: Decoder, layers: Sequence[int], count: int) -> Iterator[list[Tensor]]:
    """Record `attention_received` of some layers in the dense pass that runs within this context."""
    found: list[Tensor] = []

    def look(attention: BeaconAttention, inputs: Any, given: dict[str, Any]) -> None:
        stream = given["hidden_states"][0]
        cos, sin = (part[0] for part in given["position_embeddings"])
        q, k, _ = map(attention.heads, project(attention, "qkv", stream, len(stream)))
        q, k = attention.normalize(q, k)
        q, k = (attention.rotate(x, cos, sin) for x in (q, k))
        found.append(attention_received(q, k, count, attention.scaling, attention.cap).float().cpu())

    modules = (decoder.layers[layer].self_attn for layer in sorted(layers))
    hooks = [module.register_forward_pre_hook(look, with_kwargs=True) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
