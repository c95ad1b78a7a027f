"""The program that runs kvpress, without kvpress: with presses whose effect can be computed in one pass with a mask."""

from contextlib import contextmanager

import pytest
import torch
from transformers import Qwen2ForCausalLM

from beacon_lit.evaluation.baselines import kvpress_server
from tests.arch.tiny import hf_config, tokens
from tests.test_imports import imports

HEADS = 2  # key and value heads


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    Qwen2ForCausalLM(hf_config("qwen2")).save_pretrained(folder)
    return kvpress_server.load(str(folder), "cpu", "float32")


def request(length, tail=5, keep=10**6, seed=0, **more):
    ids = tokens(1, length, seed=seed)[0].tolist()
    return {
        "ids": ids, "tail": tail, "keep": min(keep, length - tail), "max_new_tokens": 6, "min_new_tokens": 0,
        "end_tokens": [], **more,
    }  # fmt: skip


@torch.no_grad()
def answers(model, requests, make_press=None):
    return list(kvpress_server.answers(model, requests, make_press))


def masks(share, length):
    """Which keys a press masks: others in each head, so many in all heads together."""
    count = int(HEADS * length * share)
    places = torch.randperm(HEADS * length, generator=torch.Generator().manual_seed(length))[:count]
    return places // length, places % length


def masking(share):
    """A press that masks keys, as kvpress does it."""

    @contextmanager
    def press(model):
        yield
        for layer in model.model.layers:
            heads, places = masks(share, press.length)
            layer.self_attn.masked_key_indices = torch.zeros_like(heads), heads, places

    @contextmanager
    def watching(model):
        hook = model.model.register_forward_pre_hook(
            lambda _, __, given: setattr(press, "length", given["input_ids"].shape[1]), with_kwargs=True
        )
        with press(model):
            yield
        hook.remove()

    return watching


def evicting(share):
    """A press that removes the first keys of every head from the cache."""

    def evict(module, _, given, __):
        cache = given[
            "cache" if "cache" in given else "past_key_values"
        ]  # its name from transformers 5.24 on, and before
        layer = cache.layers[module.layer_idx]
        kept = int(layer.keys.shape[2] * (1 - share))  # rounded as kvpress does
        layer.keys, layer.values = layer.keys[:, :, -kept:], layer.values[:, :, -kept:]

    @contextmanager
    def press(model):
        hooks = [layer.self_attn.register_forward_hook(evict, with_kwargs=True) for layer in model.model.layers]
        yield
        for hook in hooks:
            hook.remove()

    return press


@torch.no_grad()
def in_one_pass(model, asked, removed):
    """Decode greedily; every token is computed from the whole sequence. `removed` are (heads, places) of keys that
    tokens from the tail on do not see."""
    model.set_attn_implementation("sdpa")
    ids, text, found = list(asked["ids"]), len(asked["ids"]) - asked["tail"], []
    while len(found) < asked["max_new_tokens"]:
        seen = torch.ones(HEADS, len(ids), len(ids), dtype=torch.bool).tril()
        seen[removed[0], text:, removed[1]] = False
        logits = model(torch.tensor([ids]), attention_mask=seen.repeat_interleave(2, 0)[None]).logits[0, -1]
        found.append(int(logits.argmax()))
        ids.append(found[-1])
    return found


NONE = (torch.zeros(0, dtype=torch.long),) * 2
BATCH = [request(30), request(41, seed=1), request(23, tail=9, seed=2)]  # of two lengths of tails


def test_whole_caches_give_the_answers_of_the_model(model):
    found = answers(model, BATCH)
    assert [answer["ids"] for answer in found] == [in_one_pass(model, asked, NONE) for asked in BATCH]
    assert [answer["kept"] for answer in found] == [30, 41, 23]
    generated = model.generate(torch.tensor([BATCH[0]["ids"]]), max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert found[0]["ids"] == generated[0, 30:].tolist()


def test_masked_keys_are_not_seen_and_do_not_count(model):
    batch = [{**asked, "keep": 8} for asked in BATCH]
    found = answers(model, batch, masking)
    for asked, answer in zip(batch, found, strict=True):
        text = len(asked["ids"]) - asked["tail"]
        removed = masks(1 - (8 + 1e-3) / text, text)
        assert answer["ids"] == in_one_pass(model, asked, removed)
        assert answer["kept"] == pytest.approx(8 + asked["tail"], abs=0.5)
    assert [answer["ids"] for answer in found] != [answer["ids"] for answer in answers(model, BATCH)]
    assert not any(hasattr(layer.self_attn, "keep") for layer in model.model.layers)


def test_removed_keys_are_gone_and_positions_stay(model):
    batch = [{**asked, "keep": 8} for asked in BATCH]
    for asked, answer in zip(batch, answers(model, batch, evicting), strict=True):
        text = len(asked["ids"]) - asked["tail"]
        removed = torch.arange(HEADS).repeat_interleave(text - 8), torch.arange(text - 8).repeat(HEADS)
        assert answer["ids"] == in_one_pass(model, asked, removed) and answer["kept"] == 8 + asked["tail"]
        moved = removed[0], removed[1] + 8
        assert answer["ids"] != in_one_pass(model, asked, moved), "other keys would show"


def test_an_answer_does_not_depend_on_the_batch(model):
    batch = [{**asked, "keep": 8} for asked in BATCH]
    alone = [answers(model, [asked], masking)[0]["ids"] for asked in batch]
    assert [answer["ids"] for answer in answers(model, batch, masking)] == alone


def test_answers_end_at_end_tokens_and_limits(model):
    whole = answers(model, BATCH)[0]["ids"]
    end = whole[2]
    limits = [{"end_tokens": [end]}, {"max_new_tokens": 4}, {"end_tokens": [end], "min_new_tokens": 5}]
    first, short, late = (answer["ids"] for answer in answers(model, [{**BATCH[0], **more} for more in limits]))
    assert first == whole[: whole.index(end) + 1] and short == whole[:4]
    assert end not in late[:5] and len(late) >= 5


def test_the_program_needs_nothing_of_ours():
    names = set(imports("beacon_lit.evaluation.baselines.kvpress_server"))
    assert "transformers" in names and not [name for name in names if name.startswith("beacon_lit")]
