"""What stays the backbone: rows of up to one window, `lm.dense`, and the classes of transformers."""

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Gemma2PreTrainedModel

from beacon_lit import BeaconConfig, BeaconLM
from tests.arch.tiny import ALL, CONFIGS, DENSE, EXPERTS, FAMILIES, OTHERS, hf_config, tiny, tokens

WINDOW = 32
BEACON = BeaconConfig(window=WINDOW, ratios=(2, 4), sink=2, overlap=3, placement="interleave")


def plain(lm: BeaconLM, family: str, **values: Any) -> nn.Module:
    """The Hugging Face model with the same weights, on the sdpa kernel; with a cap, which that has not, eager."""
    attention = "eager" if family == "gemma2" else "sdpa"
    dense = DENSE[family]._from_config(hf_config(family, **values), attn_implementation=attention)
    weights = {name: value for name, value in lm.state_dict().items() if "beacon" not in name}
    dense.load_state_dict(weights, strict=True)
    return dense.to(lm.dtype).train(lm.training)


def left_padded(batch: int, length: int, padding: int) -> tuple[Tensor, Tensor]:
    """Ids and a mask whose first row starts with padding."""
    ids = tokens(batch, length)
    mask = torch.ones_like(ids)
    mask[0, :padding] = 0
    return ids, mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "length"),
    [*product(FAMILIES, [1, 2, 7, WINDOW - 1, WINDOW]), *product(OTHERS, [7, WINDOW])],
)
@torch.no_grad()
def test_a_row_of_up_to_one_window_is_the_backbone_bit_for_bit(family: str, length: int, dtype: torch.dtype) -> None:
    lm, ids = tiny(family, BEACON, dtype=dtype), tokens(1, length)
    expected = plain(lm, family)(ids).logits
    assert torch.equal(lm(ids).logits, expected)
    assert torch.equal(lm.eval()(ids).logits, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", EXPERTS)
@torch.no_grad()
def test_experts_run_as_in_transformers(family: str, dtype: torch.dtype) -> None:
    """In grouped products, unless a config asks for something else."""
    lm, ids = tiny(family, BEACON, dtype=dtype, experts_implementation=None).eval(), tokens(1, WINDOW)
    assert lm.config._experts_implementation == "grouped_mm"
    expected = plain(lm, family, experts_implementation=None)(ids).logits
    assert torch.equal(lm(ids).logits, expected) and torch.equal(lm.dense(ids).logits, expected)
    assert lm(tokens(2, 3 * WINDOW), ratios=4).logits.isfinite().all()


@pytest.mark.parametrize("placement", ["append", "step-expansion"])
@torch.no_grad()
def test_placements_do_not_matter_within_a_window(placement: str) -> None:
    lm, ids = tiny("llama", BeaconConfig(window=WINDOW, ratios=4, placement=placement)), tokens(1, WINDOW)
    assert torch.equal(lm(ids).logits, plain(lm, "llama")(ids).logits)


@pytest.mark.parametrize("family", ALL)
@torch.no_grad()
def test_two_rows_of_up_to_one_window(family: str) -> None:
    lm = tiny(family, BEACON)
    dense = plain(lm, family)
    ids, mask = left_padded(2, WINDOW, 5)
    torch.testing.assert_close(lm(ids).logits, dense(ids).logits, atol=1e-5, rtol=1e-5)
    expected = dense(ids, attention_mask=mask).logits.masked_fill(mask[..., None] == 0, 0)
    torch.testing.assert_close(lm(ids, mask).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_more_token_than_a_window_is_not_the_backbone(family: str) -> None:
    lm, ids = tiny(family, BEACON), tokens(1, WINDOW + 1)
    assert not torch.allclose(lm(ids, ratios=4).logits, plain(lm, family)(ids).logits, atol=1e-2)


@pytest.mark.parametrize("family", ALL)
def test_dense_is_the_backbone_bit_for_bit(family: str) -> None:
    lm = tiny(family, BEACON).requires_grad_(True)
    dense, (ids, mask) = plain(lm, family), left_padded(2, 3 * WINDOW, 5)
    out, expected = (model(ids, attention_mask=mask, labels=ids) for model in (lm.dense, dense))
    assert torch.equal(out.logits, expected.logits) and torch.equal(out.loss, expected.loss)
    out.loss.backward()
    expected.loss.backward()
    gradients = {name: parameter.grad for name, parameter in lm.named_parameters()}
    assert all(torch.equal(gradients[name], parameter.grad) for name, parameter in dense.named_parameters())
    assert all(parameter.grad is None for parameter in lm.beacon_parameters())
    kept = lm.dense(ids, attention_mask=mask, logits_to_keep=2).logits
    assert torch.equal(kept, dense(ids, attention_mask=mask, logits_to_keep=2).logits)


@pytest.mark.parametrize("supported", [False, True], ids=["newer", "transformers 5.17"])
@torch.no_grad()
def test_dense_keeps_the_cap_of_scores(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older versions of transformers run Gemma 2 on sdpa, which ignores the cap."""
    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", supported)
    lm, ids = tiny("gemma2", BEACON), tokens(1, 20)
    assert lm.config._attn_implementation == "eager"
    uncapped = plain(lm, "gemma2", attn_logit_softcapping=None)(ids).logits
    assert (lm.dense(ids).logits - uncapped).abs().max() > 0.1
    options = {"max_new_tokens": 9, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    found, expected = (model(ids, **options).logits for model in (lm.dense_generate, plain(lm, "gemma2").generate))
    assert torch.equal(torch.stack(found), torch.stack(expected))
    with pytest.raises(ValueError, match=r"attn_implementation='sdpa' is not allowed: .*attn_logit_softcapping=2\.0"):
        lm.set_attn_implementation("sdpa")
    assert tiny("gemma2", BEACON, attn_logit_softcapping=None).config._attn_implementation == (
        "sdpa" if supported else "eager"
    )


@torch.no_grad()
def test_dense_with_a_cache_and_attentions_is_the_backbone() -> None:
    lm, ids = tiny("qwen2", BEACON).eval(), tokens(1, 20)
    dense = plain(lm, "qwen2")
    caches = [model(ids, use_cache=True).past_key_values for model in (lm.dense, dense)]
    more = tokens(1, 3, seed=1)
    out, expected = (
        model(more, past_key_values=cache).logits for model, cache in zip((lm.dense, dense), caches, strict=True)
    )
    assert torch.equal(out, expected)


@pytest.mark.parametrize("family", ALL)
def test_dense_token_loss_is_cross_entropy(family: str) -> None:
    lm, (ids, mask) = tiny(family, BEACON), left_padded(2, 3 * WINDOW, 5)
    labels = ids.masked_fill(mask == 0, -100)
    labels[1, 10:20] = -100
    logits = plain(lm, family)(ids, attention_mask=mask).logits[:, :-1]
    expected = F.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
    expected[0, 4] = 0  # padding predicts nothing, not even the row's first token
    actual = lm.dense_token_loss(ids, mask, labels=labels)
    assert actual.dtype == torch.float32 and actual.shape == ids.shape and not actual[:, 0].any()
    torch.testing.assert_close(actual[:, 1:], expected, atol=1e-5, rtol=1e-5)
    mean = lm.dense(ids[:, 5:], labels=labels[:, 5:]).loss
    losses = lm.dense_token_loss(ids[:, 5:], labels=labels[:, 5:])
    torch.testing.assert_close(losses.sum() / (labels[:, 6:] != -100).sum(), mean)


def test_dense_token_loss_of_unpadded_rows_needs_no_mask() -> None:
    lm, ids = tiny("qwen2", BEACON), tokens(2, 20)
    assert torch.equal(lm.dense_token_loss(ids, labels=ids), lm.dense_token_loss(ids, None, labels=ids))


@pytest.mark.parametrize("token", [97, -1])
def test_dense_checks_labels(token: int) -> None:
    lm, ids = tiny("qwen2", BEACON), tokens(1, 20)
    labels = ids.clone()
    labels[0, 5] = token
    with pytest.raises(ValueError, match=f"labels has the token id {token}"):
        lm.dense_token_loss(ids, None, labels=labels)


@pytest.mark.parametrize("family", ALL)
def test_transformers_stays_as_it_was(family: str) -> None:
    torch.manual_seed(0)
    before = DENSE[family](hf_config(family))
    ids = tokens(1, 20)
    expected = before(ids).logits
    lm = tiny(family, BEACON)
    lm(ids).logits.sum().backward()
    torch.manual_seed(0)
    after = DENSE[family](hf_config(family))
    assert torch.equal(before(ids).logits, expected) and torch.equal(after(ids).logits, expected)
    for model in (before, after):
        names = [name for name, _ in model.named_modules()]
        assert not any("beacon" in name for name in names) and not hasattr(model, "beacon")
        assert "transformers." in type(model.model.layers[0].self_attn).__module__
        assert type(model.lm_head) is nn.Linear
    assert not hasattr(hf_config(family), "beacon") and hf_config(family).model_type == family


@pytest.mark.parametrize("family", ALL)
def test_a_model_is_of_both_classes_and_names_are_the_backbones(family: str) -> None:
    config = hf_config(family)
    lm = BeaconLM.from_config(config, BeaconConfig(window=8, ratios=2, params=("q", "o"), placement="interleave"))
    assert isinstance(lm, BeaconLM) and isinstance(lm, DENSE[family])
    assert type(config) is CONFIGS[family] and not hasattr(config, "beacon")
    names = set(lm.state_dict()) - set(DENSE[family](config).state_dict())
    has_bias = family == "qwen2"
    expected = {"model.beacon_embed_tokens.weight"}
    for i in range(2):
        expected |= {f"model.layers.{i}.self_attn.beacon_{name}_proj.weight" for name in "qo"}
        expected |= {f"model.layers.{i}.self_attn.beacon_q_proj.bias"} if has_bias else set()
    assert names == expected
    trained = {name for name, parameter in lm.named_parameters() if parameter.requires_grad}
    assert trained == expected
    assert {id(parameter) for parameter in lm.beacon_parameters()} == {id(lm.get_parameter(name)) for name in expected}


@pytest.mark.parametrize("token", [None, [2, 5], 97], ids=["none", "several", "outside"])
def test_beacon_embedding_of_unusual_end_tokens(token: int | list[int] | None) -> None:
    config = hf_config("qwen2")
    config.eos_token_id = token
    if token == 97:
        with pytest.raises(ValueError, match="eos_token_id=97"):
            BeaconLM.from_config(config, BEACON)
        return
    lm = BeaconLM.from_config(config, BEACON)
    table = lm.model.embed_tokens.weight
    torch.testing.assert_close(lm.model.beacon_embed_tokens.weight[0], table[2] if token else table.mean(0))


@pytest.mark.parametrize("token", ["eos", "bos"])
def test_beacons_start_from_the_backbone(token: str) -> None:
    beacon = BeaconConfig(window=8, ratios=2, params=("q", "k", "v", "o"), embed_init=token, placement="interleave")
    lm = BeaconLM.from_config(hf_config("qwen2"), beacon)
    number = {"eos": 2, "bos": 1}[token]
    assert torch.equal(lm.model.beacon_embed_tokens.weight[0], lm.model.embed_tokens.weight[number])
    assert lm.model.beacon_embed_tokens.padding_idx is None
    for layer in lm.model.layers:
        for name in "qkvo":
            own, base = (getattr(layer.self_attn, f"{prefix}{name}_proj") for prefix in ("beacon_", ""))
            assert torch.equal(own.weight, base.weight) and own.weight is not base.weight
            assert (own.bias is None) == (base.bias is None)
            assert own.bias is None or torch.equal(own.bias, base.bias)
