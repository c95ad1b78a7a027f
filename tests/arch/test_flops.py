"""Counted operations against torch's own counter, which sees every matrix product, and against the kernels' masks."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from beacon_lit import BeaconConfig
from beacon_lit.arch.flops import Load, head_flops, load, training_flops
from beacon_lit.arch.plan.build import _built, build_layout
from tests.arch.tiny import ALL, tiny, tokens

LENGTHS = (70, 50, 9, 33)  # in windows of 16


def counted(lm):
    """Of a training step on packed rows of mixed lengths: torch's count, ours, and the rows of the pass."""
    ids = tokens(len(LENGTHS), max(LENGTHS))
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    labels = ids.masked_fill((mask == 0) | (ids % 3 == 0), -100)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        out = lm(ids, mask, labels=labels, return_logits=False)
        out.loss.backward()
    work = load(out.rows, lm.beacon, lm.groups.reaches)
    own = training_flops(lm, work) + int((labels[:, 1:] != -100).sum()) * head_flops(lm)
    by_module = counter.get_flop_counts()
    # Older versions of transformers (5.17) compute RoPE's angles as a product of (H/2, 1) and (1, n), newer ones
    # multiply elementwise, which torch does not count. Angles belong to no layer, so neither do we.
    angles = sum(sum(ops.values()) for name, ops in by_module.items() if name.endswith(".rotary_emb"))
    return counter.get_total_flops() - angles, own, out.rows


def hidden_square(lm, rows):
    """Operations on pairs that are masked away, which torch counts and we do not."""
    work, heads, found = load(rows, lm.beacon, lm.groups.reaches), lm.config.num_attention_heads, 0
    for kind, layer in zip(lm.layer_kinds(lm.config), lm.model.layers, strict=True):
        lengths = build_layout(kind.rows(rows, lm.beacon), lm.beacon, reach=kind.reach).lengths
        pairs = work.pairs if kind.reach is None else work.sliding[kind.reach]
        found += 12 * heads * layer.self_attn.head_dim * (sum(queries * keys for queries, keys in lengths) - pairs)
    return found


@pytest.mark.parametrize(
    ("family", "placement", "params"),
    [
        *((family, "interleave", ("q", "k", "v")) for family in ALL),
        ("qwen2", "append", ("q", "v", "o")),
        ("qwen3", "step-expansion", ("q", "k", "v", "o")),
        ("llama", "interleave", ()),
        ("phi3", "interleave", ("q", "v")),
    ],
)
def test_equals_torchs_count(family, placement, params):
    beacon = BeaconConfig(window=16, ratios=(2, 4, 8), sink=2, overlap=3, placement=placement, params=params)
    lm = tiny(family, beacon)
    theirs, own, rows = counted(lm)
    assert theirs == own + hidden_square(lm, rows)  # to the operation, no tolerance
    assert len({window.ratio for row in rows for window in row.windows}) == 3


def test_what_is_computed_twice_is_not_counted():
    lm = tiny("qwen2", BeaconConfig(window=16, ratios=(4,), placement="interleave"))
    once = counted(lm)
    lm.checkpoint_activations()
    twice = counted(lm)
    assert twice[1] == once[1] and twice[0] > 1.2 * once[0]


def test_trained_layers_have_gradients_of_their_weights():
    lm = tiny("llama", BeaconConfig(window=16, ratios=(4,), placement="interleave"))
    frozen = counted(lm)[1]
    lm.model.layers.requires_grad_(True)
    theirs, own, rows = counted(lm)
    assert theirs == own + hidden_square(lm, rows) and own > 1.3 * frozen


@pytest.mark.parametrize("placement", ["interleave", "append", "select"])
@pytest.mark.parametrize("reach", [1, 5, 16, 23, 200])
def test_pairs_of_a_sliding_window_are_those_of_each_raw_token_and_beacon(placement, reach):
    params = ("q", "k", "v") if placement != "select" else ("k", "v")
    lm = tiny(
        "gemma3_text",
        BeaconConfig(window=16, ratios=(2, 4, 8), sink=2, overlap=3, placement=placement, params=params),
        sliding_window=reach,
    )
    theirs, own, rows = counted(lm)
    assert theirs == own + hidden_square(lm, rows)
    expected = sum(min(reach, position + 1) for length in LENGTHS for position in range(length))
    for row in rows if placement != "select" else ():
        start = 0
        for window in row.windows:
            ends = (start + (j + 1) * window.ratio - 1 for j in range(window.beacons))
            expected += sum(min(reach, end + 1) for end in ends)
            start += window.length
    assert load(rows, lm.beacon, (reach,)).sliding == {reach: expected}


@pytest.mark.parametrize("placement", ["interleave", "append", "step-expansion"])
def test_pairs_are_those_that_the_mask_lets_through(placement):
    config = BeaconConfig(window=16, ratios=(2, 4, 8), sink=2, overlap=3, placement=placement)
    _, _, rows = counted(tiny("llama", config))
    layout = build_layout(rows, config)
    masks, first = [], 0
    for queries, keys in layout.lengths:
        beacon = layout.q_index[first : first + queries] >= layout.raw
        mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
        if placement == "step-expansion":  # raw tokens do not see the beacons of their own window
            mask[:, keys - queries :] &= beacon[:, None] | ~beacon
        masks.append(mask)
        first += queries
    assert load(rows, config).pairs == sum(int(mask.sum()) for mask in masks)


@pytest.mark.parametrize(
    ("family", "placement", "params"),
    [("llama", "interleave", ("q", "k", "v")), ("llama", "select", ("k", "v")), ("gemma3_text", "select", ("k", "v"))],
)
def test_the_work_of_a_pass_is_counted_on_the_layout_that_the_pass_made(family, placement, params):
    lm = tiny(family, BeaconConfig(window=16, ratios=(2, 4, 8), placement=placement, params=params))
    rows = lm(tokens(2, 70), labels=tokens(2, 70), return_logits=False).rows
    made = _built.cache_info().misses
    load(rows, lm.beacon, lm.groups.reaches)
    assert _built.cache_info().misses == made
    load(rows[:1], lm.beacon, lm.groups.reaches)
    assert _built.cache_info().misses > made


def test_work_adds_up():
    one, two = Load(1, 2, 3, 4, {8: 5}), Load(10, 20, 30, 40, {8: 50, 9: 7})
    assert Load() + one == one
    assert one + two == Load(11, 22, 33, 44, {8: 55, 9: 7})
