"""Controls: with a layout that is wrong in one place, one pass must differ from the oracle by a clear margin."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from beacon_lit import BeaconConfig
from beacon_lit.arch import core
from beacon_lit.arch.nn import kernels, own_maps
from beacon_lit.arch.nn.logits import LogitScale
from beacon_lit.arch.plan.build import build_layout
from beacon_lit.arch.plan.layout import Layout
from tests.arch.oracle import oracle_logits
from tests.arch.tiny import FAMILIES, tiny, tokens

WINDOW = 8
BEACON = BeaconConfig(window=WINDOW, ratios=(2, 4), sink=2, overlap=3, placement="interleave")
RATIOS = [2, 4, 2, 4]
MEMORY = 2 + 4  # slots of sink and beacons after the first window
SECOND, THIRD = 1, 2


def edit_keys(layout: Layout, window: int, edit: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Layout:
    """Replace one window's keys (stream positions, slots)."""
    parts = [keys for _, keys in layout.lengths]
    index, slot = list(layout.k_index.split(parts)), list(layout.k_slot.split(parts))
    index[window], slot[window] = edit(index[window].clone(), slot[window].clone())
    lengths = tuple((queries, len(keys)) for (queries, _), keys in zip(layout.lengths, index, strict=True))
    ends = torch.tensor([0, *(keys for _, keys in lengths)]).cumsum(0).int()
    return replace(layout, k_index=torch.cat(index), k_slot=torch.cat(slot), cu_k=ends, lengths=lengths)


def shifted_memory(layout: Layout) -> Layout:
    return edit_keys(layout, SECOND, lambda index, slot: (index, torch.cat([slot[:MEMORY] + 1, slot[MEMORY:]])))


def shifted_beacon(layout: Layout) -> Layout:
    def edit(index: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
        slot[MEMORY - 1] -= 1
        return index, slot

    return edit_keys(layout, SECOND, edit)


def shifted_queries(layout: Layout) -> Layout:
    slots = layout.q_slot.clone()
    slots[layout.cu_q[SECOND] : layout.cu_q[THIRD]] += 1
    return replace(layout, q_slot=slots)


def dropped_beacon(layout: Layout) -> Layout:
    """Slots close up, as if it had never been."""
    return edit_keys(layout, SECOND, lambda index, slot: (torch.cat([index[: MEMORY - 1], index[MEMORY:]]), slot[:-1]))


def dropped_sink(layout: Layout) -> Layout:
    return edit_keys(layout, SECOND, lambda index, slot: (index[1:], slot[1:]))


def dropped_overlap(layout: Layout) -> Layout:
    return edit_keys(
        layout, SECOND, lambda index, slot: (torch.cat([index[: MEMORY + 2], index[MEMORY + 3 :]]), slot[:-1])
    )


def swapped_memory(layout: Layout) -> Layout:
    def edit(index: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
        index[[MEMORY - 2, MEMORY - 1]] = index[[MEMORY - 1, MEMORY - 2]]
        return index, slot

    return edit_keys(layout, SECOND, edit)


def memory_of_raw_tokens(layout: Layout) -> Layout:
    """Each beacon of the first window replaced by the raw token before it."""

    def edit(index: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
        index[2:MEMORY] = torch.tensor([1, 3, 5, 7])
        return index, slot

    return edit_keys(layout, SECOND, edit)


WRONG = (
    shifted_memory, shifted_beacon, shifted_queries, dropped_beacon, dropped_sink, dropped_overlap, swapped_memory,
    memory_of_raw_tokens,
)  # fmt: skip


def difference(family: str, wrong: Callable[[Layout], Layout], monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """(L,) largest difference of logits from the oracle's, by token."""
    monkeypatch.setattr(core, "build_layout", lambda *arguments: wrong(build_layout(*arguments)))
    lm, ids = tiny(family, BEACON, dtype=torch.float64), tokens(1, 29)
    expected = oracle_logits(lm, ids[0], RATIOS, "raw")
    return (lm(ids, ratios=RATIOS).logits[0] - expected).abs().amax(-1)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_right_layout_agrees(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert difference(family, lambda layout: layout, monkeypatch).max() < 1e-9


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_wrong_window_shows(family: str, wrong: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    found = difference(family, wrong, monkeypatch)
    first, second = found[:WINDOW], found[WINDOW : 2 * WINDOW]
    assert first.max() < 1e-9  # only what the control touches is wrong
    assert second.min() > 1e-3 and second.max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_beacons_on_the_backbones_projections_show(family: str) -> None:
    lm, ids = tiny(family, BEACON, dtype=torch.float64), tokens(1, 29)
    expected = oracle_logits(lm, ids[0], RATIOS, "raw")
    for layer in lm.model.layers:
        own_maps.initialize(layer.self_attn, lm.beacon.own_maps)
    found = (lm(ids, ratios=RATIOS).logits[0] - expected).abs().amax(-1)
    assert found[WINDOW : 2 * WINDOW].min() > 1e-3


@torch.no_grad()
def test_a_cap_that_is_left_out_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the scores in each kind of layers, and of the logits."""
    lm, ids = tiny("gemma2", BEACON, dtype=torch.float64), tokens(1, 29)
    expected = oracle_logits(lm, ids[0], RATIOS, "raw")

    def worst() -> float:
        return float((lm(ids, ratios=RATIOS).logits[0] - expected).abs().max())

    assert worst() < 1e-9
    for layer in lm.model.layers:
        layer.self_attn.attn_logit_softcapping = None
        assert worst() > 0.1
        layer.self_attn.attn_logit_softcapping = 2.0
    lm.lm_head.scale = LogitScale()
    assert worst() > 0.1
    lm.lm_head.scale = LogitScale(cap=3.0)
    sdpa = kernels.sdpa
    monkeypatch.setattr(kernels, "sdpa", lambda q, k, v, layout, scale, cap: sdpa(q, k, v, layout, scale))
    assert worst() > 0.1
