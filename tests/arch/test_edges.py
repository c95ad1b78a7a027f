"""Settings, paddings, errors and endings at the edges of caches, reading and generation."""

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from beacon_lit import BeaconCache, BeaconConfig, BeaconLM
from tests.arch.caches import assert_same, model, padded
from tests.arch.tiny import tiny, tokens

GREEDY = {"do_sample": False, "eos_token_id": None}


@torch.no_grad()
def test_padding_without_a_mask_is_padding_in_long_prompts_too() -> None:
    """Hugging Face infers the mask from pad_token_id; the chunked prompt reads the padding as text."""
    lm, (ids, mask) = model(), padded([tokens(60, seed=1), tokens(100, seed=2)])
    options = {"max_new_tokens": 5, "pad_token_id": 0, **GREEDY}
    assert torch.equal(lm.generate(ids, **options), lm.generate(ids, attention_mask=mask, **options))


@torch.no_grad()
def test_adapt_generates_for_every_row_as_if_alone() -> None:
    """total_length is that of the widest row, padding included, for all rows."""
    lm = model("llama", sink=0, overlap=0, positions=64, ratios=(2, 4, 8), ratio_policy="adapt-0")
    for lengths in ((20, 150), (20, 60)):
        texts = [tokens(length, seed=length) for length in lengths]
        ids, mask = padded(texts)
        options = {"max_new_tokens": 10, "return_dict_in_generate": True, **GREEDY}
        both = lm.generate(ids, attention_mask=mask, pad_token_id=0, **options)
        for row, text in enumerate(texts):
            alone = lm.generate(text[None], **options)
            assert_same(both.past_key_values.select([row]), alone.past_key_values)


@pytest.mark.parametrize("rows", [[5], [-1], [0, 0]])
def test_put_refuses_rows_there_are_not(rows: list[int]) -> None:
    """What is put at a row that there is not is lost, of a row named twice the first."""
    lm = model()
    with pytest.raises(ValueError, match="row"):
        lm.compress(tokens(3, 11)).put(rows, lm.compress(tokens(len(rows), 5)))


def test_put_of_all_rows_refuses_another_model() -> None:
    with pytest.raises(ValueError, match="fingerprint"):
        model().compress(tokens(1, 5)).put([0], model(sink=3).compress(tokens(1, 5)))


@torch.no_grad()
def test_rollback_forgets_the_ratio_that_only_the_tokens_rolled_back_gave() -> None:
    lm = model()
    cache = lm(tokens(1, 3), ratios=4, use_cache=True).cache
    assert_same(lm(tokens(1, 2), ratios=2, cache=cache).cache.rollback(2), cache)


@torch.no_grad()
def test_a_head_rolled_back_is_still_a_head() -> None:
    lm, ids = model(), tokens(1, 30)
    whole = lm.compress(ids, skip=5)
    assert_same(lm.compress(ids, cache=lm.compress(ids[:, :5], skip=5).rollback(5)), whole)
    assert_same(
        lm(ids, cache=lm.compress(ids[:, :5], skip=5).rollback(5)).cache,
        lm(ids[:, 5:], cache=lm.compress(ids[:, :5], skip=5)).cache,
    )


@torch.no_grad()
def test_a_reading_with_a_head_interrupted_at_its_start_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, ids = model(), tokens(1, 30)
    whole = lm.compress(ids, skip=5)
    monkeypatch.setattr(BeaconLM, "run", None)
    with pytest.raises(TypeError) as caught:
        lm.compress(ids, skip=5)
    monkeypatch.undo()
    assert_same(lm.compress(ids, cache=caught.value.cache), whole)


@torch.no_grad()
def test_changed_settings_are_noticed() -> None:
    """The known fingerprint is kept although `lm.beacon` is another."""
    lm = model()
    cache = lm.compress(tokens(1, 20))
    lm.beacon = replace(lm.beacon, sink=4)
    with pytest.raises(ValueError, match="sink"):
        lm(tokens(1, 3), cache=cache)


def test_generation_under_autocast() -> None:
    """`check_cache` allows it; the buffers do not: index put of bfloat16 values into float32."""
    lm = tiny("llama", BeaconConfig(window=8, ratios=4, placement="interleave")).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert lm.generate(tokens(1, 7), max_new_tokens=12, **GREEDY).shape == (1, 19)


@torch.no_grad()
def test_a_row_of_one_token_among_long_prompts() -> None:
    lm, (ids, mask) = model(), padded([tokens(1, seed=1), tokens(100, seed=2)])
    found = lm.generate(ids, attention_mask=mask, max_new_tokens=5, pad_token_id=0, **GREEDY)
    for row, text in enumerate((tokens(1, seed=1), tokens(100, seed=2))):
        assert torch.equal(found[row, 100:], lm.generate(text[None], max_new_tokens=5, **GREEDY)[0, len(text) :])


@torch.no_grad()
def test_a_random_policy_may_generate_what_closes_no_window() -> None:
    """The last token is not read, and a full window stays open; padding is not read at all."""
    lm = model(ratio_policy="random")
    assert lm.generate(tokens(1, 5), max_new_tokens=4, **GREEDY).shape == (1, 9)  # reads 8
    mask = torch.tensor([[0] * 6 + [1] * 2])
    assert lm.generate(tokens(1, 8), attention_mask=mask, max_new_tokens=4, **GREEDY).shape == (1, 12)


@torch.no_grad()
def test_a_pad_token_outside_the_vocabulary_is_never_read() -> None:
    """Rows that have ended are embedded, though into scratch; by calls they are not."""
    lm = model("llama")
    lm.generate(tokens(2, 7), max_new_tokens=12, do_sample=False, eos_token_id=list(range(0, 97, 3)), pad_token_id=97)


@pytest.mark.parametrize("how", ["max_length", "a positional config", "the model's own config", "inserted beacons"])
def test_a_random_policy_is_refused_before_the_first_token(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model(ratio_policy="random", unfinished="beacons" if how == "inserted beacons" else "raw")
    cache = lm(tokens(1, 5), ratios=4, use_cache=True).cache
    monkeypatch.setattr(BeaconLM, "run", None)
    with pytest.raises(ValueError, match="eval_ratio"):
        if how == "max_length":
            lm.generate(tokens(1, 5), max_length=30, **GREEDY)
        elif how == "a positional config":
            lm.generate(tokens(1, 5), GenerationConfig(max_new_tokens=30, do_sample=False))
        elif how == "the model's own config":
            lm.generation_config.max_new_tokens = 30
            lm.generate(tokens(1, 5), **GREEDY)
        else:
            lm.generate(tokens(1, 1), cache=cache, max_new_tokens=6, **GREEDY)


def test_a_text_that_does_not_fit_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model(positions=64)
    monkeypatch.setattr(BeaconLM, "run", None)
    for read in (lm.compress, lambda ids, ratios: lm.generate(ids, ratios=ratios, max_new_tokens=1, **GREEDY)):
        with pytest.raises(ValueError, match=r"row 0 of (900|899) tokens"):
            read(tokens(1, 900), ratios=2)


def test_the_row_that_does_not_fit_is_named() -> None:
    """Numbers in messages are those of the chunk's rows."""
    lm = model(positions=64)
    ids, mask = padded([tokens(5), tokens(6), tokens(900)])
    with pytest.raises(ValueError, match="row 2"):
        lm.compress(ids, mask, ratios=2)


@torch.no_grad()
def test_adapt_does_not_depend_on_chunks_where_the_total_is_understated() -> None:
    """In a batch a chunk is one window, and the ratio that fits "the rest" is found for that chunk alone."""
    lm = model("llama", sink=0, overlap=0, positions=48, ratios=(2, 4, 8), ratio_policy="adapt-0")
    text = tokens(120, seed=1)
    ids, mask = padded([text, *[tokens(3, seed=seed) for seed in range(9)]])
    alone = lm(text[None], use_cache=True).cache
    assert_same(lm.compress(ids, mask, total_length=2).select([0]), alone)


def test_an_unfinished_mode_that_is_not_the_caches_is_refused_before_a_long_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = model()
    cache = lm.compress(tokens(1, 5))
    monkeypatch.setattr(BeaconLM, "run", None)
    with pytest.raises(ValueError, match="unfinished='beacons'"):
        lm.generate(tokens(1, 100), cache=cache, unfinished="beacons", max_new_tokens=3, **GREEDY)


@torch.no_grad()
def test_a_mode_asked_for_at_a_border_holds_for_a_long_prompt() -> None:
    lm = model(unfinished="beacons")
    cache = lm(tokens(1, 8), use_cache=True).cache
    options = {"unfinished": "raw", "max_new_tokens": 3, "return_dict_in_generate": True, **GREEDY}
    assert lm.generate(tokens(1, 100), cache=cache, **options).past_key_values.unfinished == "raw"


@pytest.mark.parametrize("tokens_back", [1.5, None, "1", True])
def test_rollback_refuses_what_is_no_count(tokens_back: Any) -> None:
    with pytest.raises(ValueError, match="tokens="):
        model().compress(tokens(1, 5)).rollback(tokens_back)


@pytest.mark.parametrize("total", ["x", -5, 0, 2.5])
def test_a_total_length_that_is_no_count_is_refused(total: Any) -> None:
    lm = model(ratio_policy="adapt-0")
    for read in (lm, lm.compress):
        with pytest.raises(ValueError, match="total_length="):
            read(tokens(1, 20), total_length=total)


@torch.no_grad()
def test_a_total_length_below_the_text_is_refused() -> None:
    lm = model(ratio_policy="adapt-0", eval_ratio=None)
    ids, mask = padded([tokens(5), tokens(20)])
    with pytest.raises(ValueError, match=r"total_length=19 is not allowed: row 1 has 20 tokens; allowed: 20 or more"):
        lm(ids, mask, total_length=19)
    cache = lm(ids, mask, total_length=[5, 20], use_cache=True).cache
    with pytest.raises(ValueError, match="total_length=21 is not allowed: row 1 has 22 tokens"):
        lm(tokens(2, 2), cache=cache, total_length=[8, 21])
    with pytest.raises(ValueError, match="total_length=99 is not allowed: row 0 has 100 tokens"):
        lm.generate(tokens(1, 100), total_length=99, max_new_tokens=3, **GREEDY)


def test_a_cache_file_that_lacks_parts_is_refused(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(3)}, tmp_path / "part", metadata={"format": "beacon_cache-1"})
    with pytest.raises(ValueError, match="part"):
        BeaconCache.load(tmp_path / "part")


def test_a_cache_is_not_saved_over_a_folder(tmp_path: Any) -> None:
    """An OSError, after the whole file has been written, and it stays as NAME.PID.partial."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder"):
        model().compress(tokens(1, 5)).save(tmp_path / "folder")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def test_a_generation_config_raises_no_warning() -> None:
    """`use_cache=False` beside it is called deprecated, and will be an error."""
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(handler)
    getattr(__import__("transformers").utils.logging.get_logger("transformers.generation.utils"), "warning_once", None)
    type(logging.getLogger("transformers.generation.utils")).warning_once.cache_clear()
    model().generate(tokens(1, 5), generation_config=GenerationConfig(max_new_tokens=2, pad_token_id=0))
    logging.getLogger("transformers").removeHandler(handler)
    assert heard == []


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions"])
def test_outputs_that_there_are_not_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        model().generate(tokens(1, 5), max_new_tokens=2, return_dict_in_generate=True, **{name: True}, **GREEDY)


def test_ids_of_one_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match="input_ids has shape"):
        model().generate(tokens(5), max_new_tokens=2, **GREEDY)


def test_an_error_raised_twice_carries_the_newer_cache() -> None:
    """`hasattr(error, "cache")` keeps what the same object carried before."""
    lm, error = model(), KeyboardInterrupt()

    def stop(cache: BeaconCache, share: float) -> None:
        raise error

    for length in (20, 30):
        with pytest.raises(KeyboardInterrupt):
            lm.compress(tokens(1, length), progress=stop)
    assert error.cache.seen_tokens == 30
