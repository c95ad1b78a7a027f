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
from beacon_lit.arch.plan.state import RowState


def dynamic_cache(
    rows: Sequence[RowState], layers: Sequence[LayerState], fingerprint: Mapping[str, Any]
) -> DynamicCache:
    """Put the slots of every row into a `DynamicCache`: `[sink | beacons | overlap | open window]`.

    Args:
        rows: states of rows that use the same number of slots, without beacons in their open windows.
        layers: keys and values of each layer, all KV heads together.
        fingerprint: the cache's fingerprint, which holds the backbone's RoPE and head size.

    Raises:
        ValueError: a cache with overlap of a model whose architecture is not listed.
    """
    if "rotation" in fingerprint and any(row.overlap_slots for row in rows):
        raise ValueError(
            "overlap is not allowed for the cache of a backbone that is not listed, whose RoPE only its model knows; "
            "allowed: overlap=0"
        )
    slots = torch.cat([torch.arange(row.memory_slots, row.memory_slots + row.overlap_slots) for row in rows])
    rope = _rope(fingerprint, layers[0].moving_k, slots)
    rotated = json.loads(fingerprint.get("rotated_layers", "null")) or [True] * len(layers)
    sizes = tuple([getattr(row, kind) for row in rows] for kind in ("memory_slots", "overlap_slots", "window_slots"))
    return DynamicCache(
        [
            (
                _rows(
                    (layer.memory_k, rotate(layer.moving_k, *rope) if turned else layer.moving_k, layer.open_k), sizes
                ),
                _rows((layer.memory_v, layer.moving_v, layer.open_v), sizes),
            )
            for layer, turned in zip(layers, rotated, strict=True)
        ]
    )


def _rows(kinds: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> Tensor:
    """Put each row's entries of all kinds end to end: (rows end to end, K, H) of each kind -> (B, K, slots, H)."""
    parts = zip(*(kind.split(list(size)) for kind, size in zip(kinds, sizes, strict=True)), strict=True)
    return torch.stack([torch.cat(row).transpose(0, 1) for row in parts])


def _rope(fingerprint: Mapping[str, Any], like: Tensor, slots: Tensor) -> Rope:
    """Return cos and sin at these slots, as the backbone computes them; all families do so alike."""
    parameters = json.loads(fingerprint["rope_parameters"])
    # Llama's class rotates all of a head, so the part of a head that is rotated is its head.
    size = int(fingerprint["head_dim"] * parameters.pop("partial_rotary_factor", 1.0))
    names = ("hidden_size", "num_attention_heads")
    config = LlamaConfig(rope_parameters=parameters, head_dim=size, **{name: fingerprint[name] for name in names})
    cos, sin = LlamaRotaryEmbedding(config).to(like.device)(like, slots[None].to(like.device))
    return cos[0], sin[0]
