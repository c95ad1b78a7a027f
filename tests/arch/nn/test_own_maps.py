"""Maps that beacon tokens have of their own: what raw tokens see of them is nothing, what beacons see is the map."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.config import OwnMap
from tests.arch.tiny import ALL, EXPERTS, assert_close, gradients, tiny, tokens

RANKED = ("q", "k", "v", "o:3", "gate:2", "up:2", "down:3")
RATIOS = [2, 4, 0, 8, 2]


def config(params: tuple[str, ...]) -> BeaconConfig:
    return BeaconConfig(window=8, ratios=(2, 4), sink=1, overlap=2, params=params, placement="interleave")


def low_rank(lm: BeaconLM) -> dict[str, Tensor]:
    return {name: value for name, value in lm.named_parameters() if name.endswith((".up.weight", ".down.weight"))}


def pair(family: str, params: tuple[str, ...] = RANKED, **values) -> tuple[BeaconLM, BeaconLM]:
    """A model with low-rank maps that are zero, and one of the same weights without these maps."""
    lm = tiny(family, config(params), dtype=torch.float64, **values)
    plain = tiny(family, config(tuple(name for name in params if ":" not in name)), dtype=torch.float64, **values)
    with torch.no_grad():
        for name, value in low_rank(lm).items():
            value.zero_() if name.endswith(".up.weight") else value.normal_()
    plain.load_state_dict(lm.state_dict(), strict=False)
    return lm, plain


@pytest.mark.parametrize("family", [family for family in ALL if family not in EXPERTS])
def test_at_the_start_they_change_nothing(family: str) -> None:
    lm, plain = pair(family)
    ids = tokens(2, 37)
    assert_close(lm(ids, ratios=RATIOS).logits, plain(ids, ratios=RATIOS).logits, 1e-12)
    fresh = BeaconLM.from_config(lm.config, config(RANKED))
    assert all(not value.any() for name, value in low_rank(fresh).items() if name.endswith("up.weight"))
    again = BeaconLM.from_config(lm.config, config(RANKED))  # the same on every rank
    for name, value in low_rank(fresh).items():
        assert torch.equal(value, dict(again.named_parameters())[name])


@pytest.mark.parametrize("family", [family for family in ALL if family not in EXPERTS])
@torch.no_grad()
def test_raw_tokens_never_go_through_them(family: str) -> None:
    lm, plain = pair(family)
    ids = tokens(2, 37)
    for value in low_rank(lm).values():
        value.normal_()
    assert torch.equal(lm.dense(ids).logits, plain.dense(ids).logits)
    assert torch.equal(lm.eval()(ids, ratios=0).logits, plain.eval()(ids, ratios=0).logits)
    found, before = lm.train()(ids, ratios=RATIOS).logits, plain.train()(ids, ratios=RATIOS).logits
    assert torch.equal(found[:, :2], before[:, :2])  # raw tokens before the first beacon
    assert (found[:, 8:] - before[:, 8:]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("name", ["q", "k", "v", "o", "gate", "up", "down"])
@torch.no_grad()
def test_a_low_rank_map_is_that_of_merged_weights(name: str) -> None:
    """Where all tokens of a pass are beacons of a backbone, `base + up @ down` as the backbone's weight is the same."""
    lm, _ = pair("llama", (f"{name}:3",))
    for value in low_rank(lm).values():
        value.normal_()
    merged = copy.deepcopy(lm)
    for layer in merged.model.layers:
        module = layer.mlp if name in ("gate", "up", "down") else layer.self_attn
        own = getattr(module, f"beacon_{name}_proj")
        getattr(module, f"{name}_proj").weight += own.up.weight @ own.down.weight
        own.up.weight.zero_()
    stream = torch.randn(1, 5, 32, dtype=torch.float64)
    for layer, expected in zip(lm.model.layers, merged.model.layers, strict=True):
        for module, other in ((layer.self_attn, expected.self_attn), (layer.mlp, expected.mlp)):
            if hasattr(module, f"beacon_{name}_proj"):
                base, own = getattr(module, f"{name}_proj"), getattr(module, f"beacon_{name}_proj")
                x = stream if base.in_features == 32 else torch.randn(1, 5, base.in_features, dtype=torch.float64)
                assert_close(own(x, base(x)), getattr(other, f"{name}_proj")(x), 1e-12)


@pytest.mark.parametrize("family", [family for family in ALL if family not in EXPERTS])
def test_they_are_trained_and_recomputing_changes_no_gradient(family: str) -> None:
    lm, ids = pair(family)[0], tokens(2, 37)
    with torch.no_grad():
        for value in low_rank(lm).values():
            value.normal_()
    expected = gradients(lm, lm(ids, labels=ids, ratios=RATIOS).loss)
    assert set(low_rank(lm)) < expected.keys()
    used = [name for name in low_rank(lm) if "layers.0." in name]  # nobody reads what the last layer makes of beacons
    assert used and all(expected[name].abs().max() > 1e-6 for name in used)
    lm.checkpoint_activations()
    for name, gradient in gradients(lm, lm(ids, labels=ids, ratios=RATIOS).loss).items():
        assert_close(gradient, expected[name], 1e-12, name)
    none = gradients(lm, lm(ids[:, :5], labels=ids[:, :5]).loss)  # no beacon runs
    assert all(not value.any() for value in none.values())


def test_they_are_saved_and_loaded(tmp_path: Path) -> None:
    lm, ids = pair("qwen2")[0].float().eval(), tokens(1, 37)
    with torch.no_grad():
        for value in low_rank(lm).values():
            value.normal_()
    for only in (True, False):
        folder = tmp_path / f"{only}"
        backbone = tmp_path / "backbone"
        lm.save_pretrained(backbone, beacon_only=False)
        lm.config._name_or_path = str(backbone)
        lm.save_pretrained(folder, beacon_only=only)
        again = BeaconLM.from_pretrained(str(folder))
        assert again.beacon.params == RANKED
        assert torch.equal(again(ids, ratios=RATIOS).logits, lm(ids, ratios=RATIOS).logits)


def test_what_may_be_named() -> None:
    assert BeaconConfig(params=("q", "down:16"), placement="interleave").own_maps == (OwnMap("q"), OwnMap("down", 16))
    for wrong in ("gate", "q:0", "z:4", "q:", "q:4:4", 3):
        with pytest.raises(ValueError, match=r"params=.*q, k, v, o, or NAME:RANK with q, k, v, o, gate, up, down"):
            BeaconConfig(params=(wrong,), placement="interleave")
    with pytest.raises(ValueError, match="different projections"):
        BeaconConfig(params=("q", "q:4"), placement="interleave")
    with pytest.raises(ValueError, match=r"params=.*published"):
        BeaconConfig(params=("q", "o:4"), placement="interleave").to_published()


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_have_none(family: str) -> None:
    tiny(family, config(("q", "o:3")))
    with pytest.raises(
        ValueError, match=r"params=\('gate:2',\) is not allowed: .*MoeBlock.* allowed: maps of q, k, v, o"
    ):
        tiny(family, config(("gate:2",)))
