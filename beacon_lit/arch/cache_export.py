"""A cache for the plain backbone: Hugging Face's `DynamicCache` of rotated keys and values, one entry per slot."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from beacon_lit.arch.nn.rope import Rope, rotate
from beacon_lit.arch.nn.state import LayerState
from beacon_lit.arch.plan.kinds import LayerKind, Memory
from beacon_lit.arch.plan.state import RowState


def dynamic_cache(
    rows: Sequence[RowState],
    layers: Sequence[LayerState],
    kinds: Sequence[LayerKind],
    fingerprint: Mapping[str, Any],
) -> DynamicCache:
    """Put the slots of every row into a `DynamicCache`: `[sink | beacons | overlap | open window]`.

    The plain model counts positions in one way, by the slots of memory. In layers with a sliding window the last raw
    tokens are therefore rotated once more, to the slots before the next one.

    Args:
        rows: states of rows that use the same number of slots, without beacons in their open windows.
        layers: keys and values of each layer, all KV heads together.
        kinds: what each layer keeps.
        fingerprint: the cache's fingerprint, which holds the backbone's RoPE and head size.

    Raises:
        ValueError: a cache with overlap or sliding windows of a model whose architecture is not listed, or a sliding
            window of more raw tokens than a row has slots.
    """
    if "rotation" in fingerprint and any(row.overlap_slots for row in rows):
        raise ValueError(
            "overlap is not allowed for the cache of a backbone that is not listed, whose RoPE only its model knows; "
            "allowed: overlap=0"
        )
    if "rotation" in fingerprint and any(kind.reach is not None for kind in kinds):
        raise ValueError(
            "sliding windows are not allowed in the cache of a backbone that is not listed, whose RoPE only its model "
            "knows; allowed: lm.generate(..., cache=cache)"
        )
    slots = torch.cat([torch.arange(row.memory_slots, row.memory_slots + row.overlap_slots) for row in rows])
    remembering = next(layer for layer, kind in zip(layers, kinds, strict=True) if kind.reach is None)
    rope = _rope(fingerprint, Memory.layer_type, remembering.moving_k, slots)
    rotated = json.loads(fingerprint.get("rotated_layers", "null")) or [True] * len(layers)
    sizes = tuple([getattr(row, kind) for row in rows] for kind in ("memory_slots", "overlap_slots", "window_slots"))
    found: list[tuple[Tensor, ...]] = []
    for layer, kind, turned in zip(layers, kinds, rotated, strict=True):
        if kind.reach is not None:
            found.append(_last_tokens(rows, layer, kind, fingerprint))
            continue
        moving = rotate(layer.moving_k, *rope) if turned else layer.moving_k
        keys, values = (layer.memory_k, moving, layer.open_k), (layer.memory_v, layer.moving_v, layer.open_v)
        found.append((_rows(keys, sizes), _rows(values, sizes)))
    cache = DynamicCache(found)
    for own, kind in zip(cache.layers, kinds, strict=True):
        if kind.reach is not None:
            own.cumulative_length = rows[0].slots
    return cache


def _last_tokens(
    rows: Sequence[RowState], layer: LayerState, kind: LayerKind, fingerprint: Mapping[str, Any]
) -> tuple[Tensor, ...]:
    """Return keys and values of the raw tokens that the next one sees, and the size of the sliding window."""
    assert kind.reach is not None
    seen = kind.reach - 1
    if seen == 0:
        raise ValueError("a cache of a backbone with sliding_window=1 is not allowed; allowed: 2 or more")
    for row in rows:
        if row.slots < min(seen, row.seen_tokens):
            raise ValueError(
                f"a cache of {row.slots} slots is not allowed: the backbone's sliding window sees "
                f"{min(seen, row.seen_tokens)} tokens before the next one, which would stand at negative positions; "
                f"allowed: a longer document, a smaller ratio, or a text of one window"
            )
    sizes = tuple([getattr(kind.entries(row), name) for row in rows] for name in ("memory", "open"))
    keys, values = (
        _rows(parts, sizes)[:, :, -seen:] for parts in ((layer.memory_k, layer.open_k), (layer.memory_v, layer.open_v))
    )
    ends = torch.arange(-keys.shape[2], 0)  # the slots, counted from the next one
    turned = []
    for row, own in zip(rows, keys, strict=True):
        like = own.to(torch.promote_types(own.dtype, torch.float32))
        cos, sin = _rope(fingerprint, kind.layer_type, like, row.seen_tokens + ends)
        new_cos, new_sin = _rope(fingerprint, kind.layer_type, like, row.slots + ends)
        scale = cos**2 + sin**2  # 1 but for rounding, unless RoPE scales keys as well
        move = (new_cos * cos + new_sin * sin) / scale, (new_sin * cos - new_cos * sin) / scale
        turned.append(rotate(like.transpose(0, 1), *move).transpose(0, 1).to(own.dtype))
    return torch.stack(turned), values, torch.tensor(kind.reach)


def _rows(kinds: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> Tensor:
    """Put each row's entries of all kinds end to end: (rows end to end, K, H) of each kind -> (B, K, slots, H)."""
    parts = zip(*(kind.split(list(size)) for kind, size in zip(kinds, sizes, strict=True)), strict=True)
    return torch.stack([torch.cat(row).transpose(0, 1) for row in parts])


def _rope(fingerprint: Mapping[str, Any], layer_type: str, like: Tensor, slots: Tensor) -> Rope:
    """Return cos and sin at these slots for keys `like`, as the backbone computes them; all families do so alike."""
    parameters = json.loads(fingerprint["rope_parameters"])
    parameters = parameters.get(layer_type, parameters)
    # Llama's class rotates all of a head, so the part of a head that is rotated is its head.
    size = int(like.shape[-1] * parameters.pop("partial_rotary_factor", 1.0))
    names = ("hidden_size", "num_attention_heads")
    config = LlamaConfig(rope_parameters=parameters, head_dim=size, **{name: fingerprint[name] for name in names})
    cos, sin = LlamaRotaryEmbedding(config).to(like.device)(like, slots[None].to(like.device))
    return cos[0], sin[0]
