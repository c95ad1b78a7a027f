"""KVzip's importance, against the attention weights that transformers computes, and on a model that retrieves."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit import BeaconConfig
from beacon_lit.arch.nn import importance as module
from beacon_lit.arch.nn.importance import attention_received, repetition_importance
from beacon_lit.arch.plan.budgets import head_budgets, important_shares
from tests.arch.tiny import ALL, DENSE, SLIDING, assert_close, examples, hf_config, tiny, tokens

TEXT, PROMPT = tokens(20, seed=1).tolist(), [5, 6, 7]
SELECT = BeaconConfig(window=8, ratios=(2, 4), placement="select", params=("k", "v"))


@pytest.mark.parametrize("family", ALL)
def test_it_is_the_largest_weight_that_transformers_computes(family: str) -> None:
    lm = tiny(family, SELECT).eval()
    dense = DENSE[family](hf_config(family, attn_implementation="eager")).eval()
    dense.load_state_dict(lm.state_dict(), strict=False)
    ids = torch.tensor([[*TEXT, *PROMPT, *TEXT]])
    with torch.no_grad():
        weights = torch.stack(dense(ids, output_attentions=True).attentions)[:, 0]  # (layers, N, T, T)
    layers = lm.groups.with_memory
    expected = weights[list(layers), :, len(TEXT) :, : len(TEXT)].amax(2).unflatten(1, (2, 2)).amax(2)
    found = repetition_importance(lm.model, TEXT, PROMPT, layers)
    assert found.shape == (len(layers), 2, len(TEXT)) and found.dtype == torch.float32
    assert len(layers) == (1 if family in SLIDING else 2)
    assert_close(found, expected, 1e-5)
    assert expected.std() > 0.01  # a wrong token or head would show
    assert not any(layer.self_attn._forward_pre_hooks for layer in lm.model.layers)


@examples(60)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 2), st.integers(1, 3), st.integers(1, 200))
def test_few_queries_at_a_time_change_nothing(first: int, more: int, heads: int, shared: int, size: int) -> None:
    generator = torch.Generator().manual_seed(first + 10 * more)
    q, k = (torch.randn(first + more, n, 4, generator=generator, dtype=torch.float64) for n in (heads * shared, heads))
    expected = torch.zeros(heads, first, dtype=torch.float64)
    for head in range(heads * shared):
        for query in range(first, first + more):
            weights = torch.stack([q[query, head] @ k[key, head // shared] * 0.7 for key in range(query + 1)]).softmax(
                0
            )
            own = expected[head // shared]
            own.copy_(torch.maximum(own, weights[:first]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WEIGHTS", size)
        assert_close(attention_received(q, k, first, 0.7), expected, 1e-12)


@pytest.mark.parametrize(("layer", "head"), [(0, 1), (1, 0)])
def test_the_head_that_retrieves_gets_the_largest_share(layer: int, head: int) -> None:
    """One KV head matches equal tokens, of which each is a code of four signs; all others attend evenly."""
    lm = tiny("llama", SELECT, rope_parameters={"rope_type": "default", "rope_theta": 1e12}).eval()
    codes = torch.tensor(list(product((-1.0, 1.0), repeat=4)))
    with torch.no_grad():
        embedding = lm.model.embed_tokens.weight.zero_()
        embedding[10:26, :4] = codes
        embedding[5:7, 8] = 1
        for i, block in enumerate(lm.model.layers):
            block.input_layernorm.weight.fill_(1)
            block.self_attn.o_proj.weight.zero_()  # all layers see the embeddings alone
            block.mlp.down_proj.weight.zero_()
            q, k = (getattr(block.self_attn, f"{name}_proj").weight.zero_().unflatten(0, (-1, 8)) for name in "qk")
            if i == layer:  # entries 2, 3 and their partners 6, 7 are hardly rotated
                for own in (q[2 * head], k[head]):
                    own[[2, 3, 6, 7], :4] = 1.5 * torch.eye(4)
    text = list(range(10, 26))
    found = repetition_importance(lm.model, text, [5, 6])
    assert found[layer, head].min() > 0.4 and found.flatten(0, 1).amax(1).sort().values[-2] < 0.06
    assert important_shares(found.numpy(), 4)[layer, head] == 4
    budgets = head_budgets(found.numpy(), 4, 0.5, 4)
    assert budgets[layer][head] == 2.5 and sorted(share for row in budgets for share in row)[:3] == [0.5] * 3
    # Without it no head is ahead of the others.
    with torch.no_grad():
        lm.model.layers[layer].self_attn.q_proj.weight.zero_()
    assert important_shares(repetition_importance(lm.model, text, [5, 6]).numpy(), 4)[layer, head] == 1
