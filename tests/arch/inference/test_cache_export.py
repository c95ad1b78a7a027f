"""A plain Hugging Face model that goes on from an exported cache answers as the beacon model does."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, pipeline

from beacon_lit import BeaconCache, BeaconConfig, BeaconLM
from beacon_lit.demo import smollm2
from beacon_lit.tiny import byte_tokenizer
from tests.arch.caches import model
from tests.arch.tiny import DENSE, FAMILIES, OTHERS, assert_close, attention_of, tiny, tokens

OPTIONS: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
OWN_MAPS = {"select": ("k", "v"), "blind": ("q", "k", "v")}


def loaded(lm: BeaconLM, folder: Path) -> PreTrainedModel:
    """The plain model, from a folder that Hugging Face reads without this package."""
    lm.save_backbone(folder)
    options = {"experts_implementation": "eager"} if lm.has_experts else {}  # which has float64
    options["attn_implementation"] = attention_of(lm)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=lm.dtype, **options).eval()


def compressing(family: str, placement: str, **settings: Any) -> BeaconLM:
    """A model with windows of 8, a sink of 1 and an overlap of 2, whose beacons have weights of their own."""
    return model(family, placement, params=OWN_MAPS.get(placement, ("q", "k", "v", "o")), **settings)


def mask(past: DynamicCache, ids: Tensor) -> Tensor:
    """All slots and all new tokens."""
    return torch.ones(len(ids), past.get_seq_length() + ids.shape[1], dtype=torch.long)


def answer(plain: PreTrainedModel, cache: BeaconCache, ids: Tensor, count: int, **options: Any) -> Tensor:
    past = cache.to_transformers()
    past.batch_repeat_interleave(options.get("num_beams", 1))  # as Hugging Face wants a cache for beam search
    chosen = {**OPTIONS, "max_new_tokens": count, "attention_mask": mask(past, ids), **options}
    return plain.generate(ids, past_key_values=past, **chosen)


@pytest.mark.parametrize(
    ("family", "placement"),
    [*product(FAMILIES, ["select", "interleave", "own-unit", "blind"]), *product(OTHERS, ["select"])],
)
@torch.no_grad()
def test_the_plain_model_answers_alike(family: str, placement: str, tmp_path: Path) -> None:
    lm = compressing(family, placement)
    plain = loaded(lm, tmp_path)
    assert type(plain) is DENSE[family]
    cache, question = lm.compress(tokens(1, 29)), tokens(1, 2, seed=1)
    past = cache.to_transformers()
    assert type(past) is DynamicCache and past.get_seq_length() == cache.rows[0].slots < 29
    expected = lm(question, cache=cache).logits
    # Raw tokens of a sliding window stand at other positions here and there, whose angles are rounded to float32.
    tolerance = 1e-5 if any(kind.reach for kind in lm.groups.kinds) else 1e-8
    assert_close(plain(question, past_key_values=cache.to_transformers()).logits, expected, tolerance, "logits")
    shifted = torch.tensor([[0, 1]]) + past.get_seq_length() + 1  # another position would show
    other = plain(question, past_key_values=cache.to_transformers(), position_ids=shifted).logits
    assert float((other - expected).abs().max()) > 1e-3
    assert cache.room == 3
    ours = lm.generate(question, cache=cache, max_new_tokens=2, ratios=2, **OPTIONS)
    assert torch.equal(answer(plain, cache, question, 2), ours)


@pytest.mark.parametrize("read", [0, 5, 8, 9, 24])
@torch.no_grad()
def test_at_every_border(read: int, tmp_path: Path) -> None:
    lm = compressing("llama", "select")
    cache = lm.compress(tokens(1, read or 1))
    cache = cache if read else cache.rollback(1)
    past, more = cache.to_transformers(), tokens(1, max(cache.room, 1), seed=1)
    ours, plain = lm(more, cache=cache, ratios=2).logits, loaded(lm, tmp_path)(more, past_key_values=past).logits
    assert cache.room == (-read % 8 if read else 8)
    if cache.room:
        assert_close(plain, ours, 1e-8, "logits")
    else:  # the token closed a window in our model alone
        assert float((plain - ours).abs().max()) > 1e-3


@torch.no_grad()
def test_rows_of_equal_slots_are_one_batch(tmp_path: Path) -> None:
    lm = compressing("qwen2", "interleave")
    plain, cache, questions = loaded(lm, tmp_path), lm.compress(tokens(3, 27)), tokens(3, 2, seed=1)
    ours = lm.generate(questions, cache=cache, max_new_tokens=4, ratios=2, **OPTIONS)
    assert torch.equal(answer(plain, cache, questions, 4), ours)
    turned = cache.select([2, 0])
    found = plain(questions[[2, 0]], past_key_values=turned.to_transformers()).logits
    assert_close(found, lm(questions[[2, 0]], cache=turned).logits, 1e-8, "logits")


@torch.no_grad()
def test_a_cache_stays_as_it_is_and_beams_work(tmp_path: Path) -> None:
    lm = compressing("llama", "select")
    plain, cache, question = loaded(lm, tmp_path), lm.compress(tokens(1, 26)), tokens(1, 2, seed=1)
    for options in ({"num_beams": 3}, {"num_beams": 1}):
        ours = lm.generate(question, cache=cache, max_new_tokens=4, ratios=2, **OPTIONS, **options)
        for _ in range(2):
            assert torch.equal(answer(plain, cache, question, 4, **options), ours)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
        {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 128},
        {"rope_type": "llama3", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64,
         "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ],
    ids=lambda rope: rope["rope_type"],
)  # fmt: skip
@torch.no_grad()
def test_the_overlap_is_rotated_as_the_backbone_does(rope: dict[str, Any], tmp_path: Path) -> None:
    beacon = BeaconConfig(window=8, ratios=2, sink=1, overlap=5, placement="select", params=("k", "v"))
    lm = tiny("llama", beacon, rope_parameters=rope, head_dim=16).double().eval()
    cache, question = lm.compress(tokens(1, 20)), tokens(1, 4, seed=1)
    cache.save(tmp_path / "cache")
    cache = BeaconCache.load(tmp_path / "cache")
    found = loaded(lm, tmp_path / "plain")(question, past_key_values=cache.to_transformers()).logits
    assert_close(found, lm(question, cache=cache).logits, 1e-8, "logits")


@torch.no_grad()
def test_a_pipeline_answers_alike(tmp_path: Path) -> None:
    """The pipeline's prompt begins with one token for every slot, which the model does not read."""
    beacon = BeaconConfig(window=64, ratios=4, sink=1, overlap=3, placement="select", params=("k", "v"))
    lm, tokenizer = tiny("llama", beacon, vocab_size=258).double().eval(), byte_tokenizer()
    cache = lm.compress(torch.tensor([tokenizer("a document. " * 30)["input_ids"]]))
    question = tokenizer("Who?", return_tensors="pt")["input_ids"]
    ours = lm.generate(question, cache=cache, max_new_tokens=6, ratios=2, **OPTIONS)[0, question.shape[1] :]
    past = cache.to_transformers(question.shape[1] + 5)
    slots = tokenizer.eos_token * past.get_seq_length()
    pipe = pipeline("text-generation", loaded(lm, tmp_path), tokenizer=tokenizer)
    said = pipe(
        "Who?", prefix=slots, past_key_values=past, return_full_text=False, max_new_tokens=6, do_sample=False,
        eos_token_id=None,
    )  # fmt: skip
    assert said[0]["generated_text"] == tokenizer.decode(ours, skip_special_tokens=True)


def test_what_cannot_be_equal_is_refused() -> None:
    lm = compressing("llama", "interleave")
    uneven = BeaconCache.stack([lm.compress(tokens(1, 20)), lm.compress(tokens(1, 29))])
    with pytest.raises(ValueError, match=r"rows of \d+, \d+ slots .* cache.select"):
        uneven.to_transformers()
    assert uneven.select([1]).to_transformers().get_seq_length() == uneven.rows[1].slots
    cache = lm.compress(tokens(1, 29))
    for count in (-1, 4, 2.0):
        with pytest.raises(ValueError, match=rf"tokens={count} .* 0 to 3, what the open window has room for"):
            cache.to_transformers(count)
    assert cache.to_transformers(3).get_seq_length() == cache.rows[0].slots
    with pytest.raises(ValueError, match="inserts beacons while it reads"):
        compressing("llama", "interleave", unfinished="beacons").compress(tokens(1, 9)).to_transformers()
    shares = [[1.5, 0.5], [1, 1]]
    budgets = compressing("llama", "select", head_budgets=shares)
    with pytest.raises(ValueError, match=r"head_budgets .* different numbers of tokens"):
        budgets.compress(tokens(1, 29)).to_transformers()


@torch.no_grad()
def test_a_window_that_closes_when_it_is_full_is_alike_until_then(tmp_path: Path) -> None:
    lm = compressing("qwen3", "select", unfinished="beacons")
    plain, cache = loaded(lm, tmp_path), lm.compress(tokens(1, 27), ratios=2)
    question = tokens(1, cache.room, seed=1)
    found = plain(question, past_key_values=cache.to_transformers()).logits
    assert_close(found, lm(question, cache=cache, ratios=2).logits, 1e-8, "logits")


@pytest.mark.parametrize("placement", ["select", "interleave"])
@torch.no_grad()
def test_a_language_model_of_the_library_answers_alike(placement: str) -> None:
    text = Path(__file__).parents[3].joinpath("LICENSE").read_text()[:2000]
    config = BeaconConfig(window=32, eval_ratio=8, sink=4, overlap=8, placement=placement, params=("k", "v"))
    lm, tokenizer = BeaconLM.from_pretrained(smollm2(), config).eval(), AutoTokenizer.from_pretrained(smollm2())
    plain = AutoModelForCausalLM.from_pretrained(smollm2(), dtype=torch.float32).eval()
    cache = lm.compress(tokenizer(text, return_tensors="pt")["input_ids"])
    question = tokenizer("\n\nWhat is a contributor? A contributor", return_tensors="pt")["input_ids"]
    count = 8
    past = cache.to_transformers(question.shape[1] + count - 1)
    assert past.get_seq_length() < cache.seen_tokens / 3
    found = plain(question, past_key_values=past).logits
    assert_close(found, lm(question, cache=cache).logits, 1e-4, "logits")  # float32, 30 layers
    ours = lm.generate(question, cache=cache, max_new_tokens=count, **OPTIONS)
    assert torch.equal(answer(plain, cache, question, count), ours)
