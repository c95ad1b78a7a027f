"""Floating-point operations of a training step, counted from what the step really does.

A matrix product of (m, k) and (k, n) has 2mkn operations; nothing but matrix products is counted. For one pass over P
packed tokens, R raw and P - R beacons, with S visible (query, key) pairs and T labelled tokens:

    linear layers      2 x weights x tokens, forward; as much again for the gradient of the activations, which goes
                       through frozen layers, too; and as much a third time only where the weights are trained
    attention          4 x layers x query heads x head dim x S, forward (scores, values); twice that, backward
    language head      2 x D x V x T, forward; as much again for the gradient of the activations

Tokens of a linear layer: the P tokens of an MLP or a projection that raw tokens and beacons share; where beacons have
one of their own, the R raw tokens go through the backbone's and the P - R beacons through theirs. S counts for each
query the keys that it sees, memory, overlap and its own window up to itself, not the whole square.

That is the model FLOPs of PaLM (arXiv 2204.02311, appendix B), which leave out what is computed a second time in the
backward pass to save memory; frozen layers are counted as in litgpt (two thirds of a trained layer's).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from torch import nn

from beacon_lit.arch.config import MLP_PROJECTIONS, PROJECTIONS, BeaconConfig
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.nn.kernels import masks
from beacon_lit.arch.plan.build import build_layout
from beacon_lit.arch.plan.windows import Row


@dataclass(frozen=True)
class Load:
    """What a pass has to compute.

    Attributes:
        raw: tokens of the text.
        beacons: tokens that run as beacons.
        own: tokens that go through maps of the beacons' own.
        pairs: (query, key) of which the query sees the key, in one layer and head.
    """

    raw: int
    beacons: int
    own: int
    pairs: int


def load(rows: Sequence[Row], config: BeaconConfig) -> Load:
    """Count a pass without a cache that did this to its rows."""
    layout = build_layout(tuple(rows), config)
    pairs = sum(queries * (keys - queries) + queries * (queries + 1) // 2 for queries, keys in layout.lengths)
    if layout.visibility is not None:
        pairs = sum(int(mask.sum()) for mask in masks(layout) if mask is not None)
    if layout.selection is not None:  # beacons do not run; every raw token is projected for them, too
        return Load(layout.raw, 0, layout.raw, pairs)
    return Load(layout.raw, layout.beacons, layout.beacons, pairs)


def pass_flops(lm: BeaconModel, rows: Sequence[Row]) -> int:
    """Forward and backward of one training pass of a `BeaconLM`, all layers, without the language head.

    Args:
        lm: the model.
        rows: what the pass did to each row (`BeaconOutput.rows`).
    """
    work = load(rows, lm.beacon)
    linear = sum(2 * size * tokens * (3 if trained else 2) for size, tokens, trained in _linear_layers(lm, work))
    config = lm.config
    heads = config.num_attention_heads * lm.model.layers[0].self_attn.head_dim
    return linear + 3 * 4 * config.num_hidden_layers * heads * work.pairs


def head_flops(lm: BeaconModel) -> int:
    """Forward and backward of the language head for one labelled token."""
    head = lm.lm_head
    return 2 * head.in_features * head.out_features * (3 if head.weight.requires_grad else 2)


def _linear_layers(lm: BeaconModel, work: Load) -> Iterator[tuple[int, int, bool]]:
    """(weights, tokens that go through, whether they are trained) of each linear layer."""
    apart = {f"{own.name}_proj" for own in lm.beacon.own_maps if own.rank is None}
    own = {f"beacon_{name}_proj" for name in (*PROJECTIONS, *MLP_PROJECTIONS)}
    for name, module in cast(nn.ModuleList, lm.model.layers).named_modules():
        if isinstance(module, nn.Linear):
            parts = set(name.split("."))  # an adapter's layers are below the projection that it adapts
            tokens = work.own if parts & own else work.raw if parts & apart else work.raw + work.beacons
            yield module.in_features * module.out_features, tokens, module.weight.requires_grad
