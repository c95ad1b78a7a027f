"""Count the floating-point operations of a training step, from what the step really computes.

A matrix product of (m, k) and (k, n) has 2mkn operations, and only matrix products are counted. For one pass over P
packed tokens (R raw tokens and P - R beacons) with S visible (query, key) pairs and T labelled tokens:

    linear layers      2 x weights x tokens for the forward pass; the same for the gradient of the activations, which
                       passes through frozen layers as well; and the same once more where the weights are trained
    attention          4 x layers x query heads x head dim x S for the forward pass (scores and values); twice as many
                       for the backward pass; layers with a sliding window have an S of their own
    language head      2 x D x V x T for the forward pass; the same for the gradient of the activations, and once more
                       where its weights are trained

All P tokens go through an MLP or a projection that raw tokens and beacons share. Where beacons have a projection of
their own, R raw tokens go through the backbone's and P - R beacons through the beacons'. S counts, for each query, the
keys that the query sees (memory, overlap, and its own window up to the query), not the whole square. In layers with a
sliding window the beacons' own maps of keys and values do not exist, and the backbone's project beacons as well.

These are the model FLOPs of PaLM (arXiv 2204.02311, appendix B), which do not count activations that are recomputed in
the backward pass to save memory. Frozen layers count two thirds of trained ones, as in litgpt.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from beacon_lit.arch.config import MLP_PROJECTIONS, PROJECTIONS, BeaconConfig
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.nn.fused import FUSED
from beacon_lit.arch.nn.kernels import masks
from beacon_lit.arch.plan.build import build_layout
from beacon_lit.arch.plan.kinds import Sliding
from beacon_lit.arch.plan.windows import Row


@dataclass(frozen=True)
class Load:
    """The amount of work in one pass, or in several together.

    Attributes:
        raw: number of raw tokens.
        beacons: number of tokens that run through the layers as beacons.
        own: number of tokens that go through the beacons' own maps.
        pairs: number of (query, key) pairs in which the query sees the key, in one layer with memory and one head.
        sliding: the same for layers with a sliding window, by its size.
    """

    raw: int = 0
    beacons: int = 0
    own: int = 0
    pairs: int = 0
    sliding: Mapping[int, int] = field(default_factory=dict)

    def __add__(self, other: "Load") -> "Load":
        return Load(
            self.raw + other.raw,
            self.beacons + other.beacons,
            self.own + other.own,
            self.pairs + other.pairs,
            Counter(self.sliding) + Counter(other.sliding),
        )


def load(rows: Sequence[Row], config: BeaconConfig, reaches: Iterable[int] = ()) -> Load:
    """Count the work of a pass without a cache.

    Args:
        rows: what the pass did to each row.
        config: the beacon settings.
        reaches: sizes of sliding windows, see `HeadGroups.reaches`.
    """
    layout = build_layout(tuple(rows), config)
    pairs = sum(queries * (keys - queries) + queries * (queries + 1) // 2 for queries, keys in layout.lengths)
    if layout.visibility is not None:
        pairs = sum(int(mask.sum()) for mask in masks(layout) if mask is not None)
    sliding = {reach: _sliding_pairs(rows, config, reach) for reach in reaches}
    if layout.selection is not None:  # no beacons run, but their own maps project every raw token
        return Load(layout.raw, 0, layout.raw, pairs, sliding)
    return Load(layout.raw, layout.beacons, layout.beacons, pairs, sliding)


def _sliding_pairs(rows: Sequence[Row], config: BeaconConfig, reach: int) -> int:
    layout = build_layout(Sliding(reach).rows(rows, config), config, reach=reach)
    seen = [np.minimum(keys - queries + 1 + np.arange(queries), reach) for queries, keys in layout.lengths]
    return int(np.delete(np.concatenate(seen), layout.q_unread.numpy()).sum())


def training_flops(lm: BeaconModel, work: Load) -> int:
    """Count the operations of all layers in training passes, forward and backward, without the language head."""
    linear = sum(2 * size * tokens * (3 if trained else 2) for size, tokens, trained in _linear_layers(lm, work))
    return linear + 3 * _attention(lm, work)


def forward_flops(lm: BeaconModel, work: Load) -> int:
    """Count the operations of all layers in one forward pass, without the language head."""
    return sum(2 * size * tokens for size, tokens, _ in _linear_layers(lm, work)) + _attention(lm, work)


def head_flops(lm: BeaconModel) -> int:
    """Count the operations of the language head for one labelled token, forward and backward."""
    head = lm.lm_head
    return 2 * head.in_features * head.out_features * (3 if head.weight.requires_grad else 2)


def _attention(lm: BeaconModel, work: Load) -> int:
    """Count the operations of all layers' scores and values in one forward pass."""
    found = 0
    for kind, layer in zip(lm.layer_kinds(lm.config), lm.model.layers, strict=True):
        pairs = work.pairs if kind.reach is None else work.sliding[kind.reach]
        found += 4 * lm.config.num_attention_heads * layer.self_attn.head_dim * pairs
    return found


def _linear_layers(lm: BeaconModel, work: Load) -> Iterator[tuple[int, int, bool]]:
    """Yield (number of weights, number of tokens, whether the weights are trained) of each linear layer."""
    beacons = {f"beacon_{name}_proj" for name in (*PROJECTIONS, *MLP_PROJECTIONS)}
    for kind, layer in zip(lm.layer_kinds(lm.config), lm.model.layers, strict=True):
        replaced = {own.name for own in kind.own_maps(lm.beacon) if own.rank is None}
        fused = {name for name, parts in FUSED.items() if replaced >= set(parts)}
        apart = {f"{name}_proj" for name in replaced} | fused
        for name, module in layer.named_modules():
            if isinstance(module, nn.Linear):
                parts = set(name.split("."))  # an adapter's layers are submodules of the projection
                tokens = work.own if parts & beacons else work.raw if parts & apart else work.raw + work.beacons
                yield module.in_features * module.out_features, tokens, module.weight.requires_grad
            elif hasattr(module, "num_experts"):
                yield from _expert_layers(module, lm.config.num_experts_per_tok, work.raw + work.beacons)


def _expert_layers(module: nn.Module, chosen: int, tokens: int) -> Iterator[tuple[int, int, bool]]:
    """Yield the same for a router, and for the experts of which each token goes through `chosen`."""
    for weight in module.parameters(recurse=False):
        if weight.dim() == 3:  # (experts, out, in)
            yield weight[0].numel(), tokens * chosen, weight.requires_grad
        else:
            yield weight.numel(), tokens, weight.requires_grad
