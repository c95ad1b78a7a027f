"""What is observed of chosen layers is what they compute, with the gradients that belong to it."""

import pytest
import torch
from torch import Tensor

from beacon_lit import BeaconConfig
from beacon_lit.arch import Teacher
from beacon_lit.arch.nn.observe import Observe
from tests.arch.tiny import FAMILIES, assert_close, gradients, tiny, tokens

BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=1, overlap=2, placement="interleave")
ALL = Observe(hidden=(0, 1), attention=(0, 1))
RATIOS = [2, 4, 0, 2, 4]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_without_windows_they_are_those_of_transformers(family: str) -> None:
    """A row within one window is the dense backbone, whose hidden states transformers gives."""
    lm, ids = tiny(family, BEACON, dtype=torch.float64), tokens(2, 8)
    found = lm(ids, observe=ALL).observed
    theirs = lm.dense(ids, output_hidden_states=True).hidden_states
    assert_close(found["hidden.0"], theirs[1], 1e-12)
    assert_close(lm.model.norm(found["hidden.1"]), theirs[2], 1e-12)
    layer = lm.model.layers[0]
    after = theirs[0] + found["attention.0"]
    assert_close(after + layer.mlp(layer.post_attention_layernorm(after)), theirs[1], 1e-12)


@torch.no_grad()
def test_those_of_the_teacher_are_the_dense_backbones() -> None:
    lm, ids = tiny("qwen2", BEACON, dtype=torch.float64), tokens(2, 37)
    mask = torch.ones(2, 37, dtype=torch.long)
    mask[1, 30:] = 0
    out = lm(ids, mask, labels=ids, ratios=RATIOS, teacher=Teacher(length=20), observe=ALL)
    dense = lm.dense(ids, output_hidden_states=True).hidden_states[1]
    assert out.taught_states.keys() == out.observed.keys() == {"hidden.0", "hidden.1", "attention.0", "attention.1"}
    assert_close(out.taught_states["hidden.0"][:, :20], dense[:, :20], 1e-12)
    assert not out.taught_states["hidden.0"][:, 20:].any()
    assert not out.observed["hidden.0"][1, 30:].any()
    assert (out.observed["hidden.0"][:, 8:20] - dense[:, 8:20]).abs().amax(-1).min() > 1e-4


@pytest.mark.parametrize("recomputed", [False, True])
def test_gradients_flow_through_them(recomputed: bool) -> None:
    lm, ids = tiny("llama", BEACON, dtype=torch.float64), tokens(1, 37)
    if recomputed:
        lm.checkpoint_activations()
    out = lm(ids, labels=ids, ratios=RATIOS, teacher=Teacher(), observe=Observe(attention=(1,)))
    loss = (out.observed["attention.1"] - out.taught_states["attention.1"]).square().mean()
    assert not out.taught_states["attention.1"].requires_grad
    found = gradients(lm, loss + 0 * out.loss)
    step = 1e-3  # RMSNorm works in float32, whose rounding a smaller one would show
    for name in ("model.layers.0.self_attn.beacon_k_proj.weight", "model.beacon_embed_tokens.weight"):
        parameter = dict(lm.named_parameters())[name]
        direction = torch.randn_like(parameter)

        def at(scale: float, parameter: Tensor = parameter, direction: Tensor = direction) -> Tensor:
            with torch.no_grad():
                parameter.add_(direction, alpha=scale)
                seen = lm(ids, labels=ids, ratios=RATIOS, teacher=Teacher(), observe=Observe(attention=(1,)))
                parameter.add_(direction, alpha=-scale)
            return (seen.observed["attention.1"] - seen.taught_states["attention.1"]).square().mean()

        slope = (at(step) - at(-step)) / (2 * step)
        assert_close((found[name] * direction).sum(), slope, 5e-3, name)


def test_nothing_is_looked_at_afterwards() -> None:
    lm, ids = tiny("qwen2", BEACON), tokens(1, 20)
    lm(ids, ratios=2, observe=ALL)
    assert not any(module._forward_hooks for module in lm.modules())
    assert lm(ids, ratios=2).observed is None


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"observe.hidden has layer 2; allowed: 0 to 1"):
        tiny("qwen2", BEACON)(tokens(1, 5), observe=Observe(hidden=(2,)))
