"""What else `generate` offers: sampling, beams, processors, stopping, streams, all as if everything was read anew."""

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, PreTrainedTokenizerFast, StoppingCriteria
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging as transformers_logging

from beacon_lit import BeaconLM
from beacon_lit.arch.inference import prompts
from tests.arch.caches import assert_same, model, padded
from tests.arch.tiny import VOCABULARY, tiny, tokens
from tests.arch.ways import anew, by_calls, small_steps

MODES = ("raw", "beacons")
LENGTHS = (37, 5, 20)
PER_ROW = [[2, 4, 8, 0, 4, 2, "drop", 4, 2], [4] * 9, [8, 2, 4] * 3]


class SecondTokenTwice(LogitsProcessor):
    """Makes likely what stands second in the whole prompt, padding left out, after every third token."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] % 3:
            return scores
        second = torch.tensor([row[row > 0][1] for row in input_ids])
        return scores.scatter_add(1, second[:, None], torch.full((len(scores), 1), 50.0))


class Stream(BaseStreamer):
    """What was put into it."""

    def __init__(self) -> None:
        self.parts: list[list[int]] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.parts.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended = True


class Longer(StoppingCriteria):
    """A row ends when it has more tokens (padding left out) than so many."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return (input_ids > 0).sum(1) > self.count


def tokenizer() -> PreTrainedTokenizerFast:
    """Token 7 is the word "<7>"; token 0 is what Hugging Face looks for how words are joined with."""
    vocabulary = {"abcdef": 0} | {f"<{i}>": i for i in range(1, VOCABULARY)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="abcdef")))


OPTIONS: dict[str, dict[str, Any]] = {
    "sampling": {"do_sample": True, "num_return_sequences": 3},
    "sampling, ratios of rows": {"do_sample": True, "num_return_sequences": 2, "ratios": PER_ROW, "top_k": 5},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "beams, ratios of rows": {"num_beams": 2, "ratios": PER_ROW, "length_penalty": 2.0},
    "beams that sample": {"num_beams": 3, "do_sample": True, "temperature": 2.0},
    "beams that end": {"num_beams": 3, "eos_token_id": list(range(1, VOCABULARY, 9)), "early_stopping": True},
    "ends": {"eos_token_id": list(range(1, VOCABULARY, 12))},
    "one eos": {"eos_token_id": 71},
    "penalty": {"repetition_penalty": 3.0, "no_repeat_ngram_size": 2},
    "processor": {"logits_processor": [SecondTokenTwice()]},
    "minimum": {"min_new_tokens": 9, "eos_token_id": list(range(1, VOCABULARY, 3))},
    "guidance": {"guidance_scale": 1.5},
}


def generate(lm: BeaconLM, **options: Any) -> Any:
    """From a left-padded batch, with the same random numbers every time."""
    ids, mask = padded([tokens(length, seed=length) for length in LENGTHS])
    torch.manual_seed(0)
    defaults = {"max_new_tokens": 14, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return lm.generate(ids, attention_mask=mask, **{**defaults, **options})


@pytest.mark.parametrize("unfinished", MODES)
@pytest.mark.parametrize("name", OPTIONS)
@torch.no_grad()
def test_options_mean_what_they_mean_when_all_is_read_anew(name: str, unfinished: str) -> None:
    lm, options = model("llama", unfinished=unfinished), OPTIONS[name]
    with anew():
        expected = generate(lm, **options)
    for way in (by_calls(), small_steps(windows=2, slots=8)):  # the latter reads the prompt in chunks
        with way:
            assert torch.equal(generate(lm, **options), expected)


@torch.no_grad()
def test_the_options_do_something() -> None:
    lm = model("llama")
    answers = {name: generate(lm, **options).tolist() for name, options in OPTIONS.items()}
    plain = generate(lm).tolist()
    assert all(answer != plain for answer in answers.values())
    assert len({str(answer) for answer in answers.values()}) == len(answers)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("unfinished", MODES)
@torch.no_grad()
def test_a_long_prompt_is_read_in_chunks(unfinished: str, beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, texts = model("qwen3", unfinished=unfinished), [tokens(length, seed=length) for length in (75, 9, 140)]
    ids, mask = padded(texts)
    ratios = [[2, 4, 8, 0, "drop"] * 5, [4] * 25, [8, 2] * 13]
    options = {"attention_mask": mask, "ratios": ratios, "num_beams": beams, "max_new_tokens": 12, "do_sample": False}
    compressed: list[int] = []
    compress = prompts.compress
    monkeypatch.setattr(
        prompts,
        "compress",
        lambda lm, ids, *rest, **kw: compressed.append(len(ids)) or compress(lm, ids, *rest, **kw),
    )
    found = lm.generate(ids, eos_token_id=None, **options)
    assert compressed == [1, 1]  # the row of nine tokens is read in one call
    with anew():
        assert torch.equal(found, lm.generate(ids, eos_token_id=None, **options))
    head, cache = padded([text[:-4] for text in texts]), None
    cache = lm.compress(*head, ratios=ratios)
    closed = [row.windows for row in cache.rows]
    rest = [row[count:] for row, count in zip(ratios, closed, strict=True)]
    tail = torch.stack([text[-4:] for text in texts])
    more = lm.generate(tail, cache=cache, **{**options, "attention_mask": None, "ratios": rest, "eos_token_id": None})
    assert torch.equal(more[:, 4:], found[:, 140:])


@pytest.mark.parametrize("unfinished", MODES)
@torch.no_grad()
def test_adapt_knows_of_the_answer(unfinished: str) -> None:
    lm = model("llama", positions=64, ratios=(2, 4, 8), ratio_policy="adapt-0", unfinished=unfinished)
    for length, new, ratio in ((20, 30, 2), (110, 14, 4), (100, 150, 8)):
        ids = tokens(1, length)
        options = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None}
        found = lm.generate(ids, return_dict_in_generate=True, **options)
        assert found.past_key_values.rows[0].adapted == ratio
        assert_same(found.past_key_values, lm.compress(found.sequences[:, :-1], total_length=length + new))


@torch.no_grad()
def test_a_stream_gets_the_prompt_and_every_token() -> None:
    lm, stream, ids = model(), Stream(), tokens(1, 80)
    found = lm.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=None, streamer=stream)
    assert stream.ended and stream.parts == [ids[0].tolist(), *found[0, 80:, None].tolist()]


@pytest.mark.parametrize("unfinished", MODES)
@torch.no_grad()
def test_a_string_ends_a_row(unfinished: str) -> None:
    lm, ids = model(unfinished=unfinished), tokens(1, 19)
    plain = lm.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=None)
    stop = int(plain[0, 19 + 13])
    count = plain[0, 19:].tolist().index(stop) + 1
    found = lm.generate(
        ids, max_new_tokens=20, do_sample=False, eos_token_id=None, stop_strings=[f"<{stop}>"], tokenizer=tokenizer(),
        return_dict_in_generate=True,
    )  # fmt: skip
    assert torch.equal(found.sequences, plain[:, : 19 + count])
    assert_same(found.past_key_values, lm.compress(plain[:, : 19 + count - 1]))


@torch.no_grad()
def test_a_criterion_ends_each_row_for_itself() -> None:
    lm = model("llama")
    found = generate(lm, stopping_criteria=[Longer(30)], return_dict_in_generate=True)
    plain = generate(lm)
    for row, (length, count) in enumerate(zip(LENGTHS, (1, 14, 11), strict=True)):
        assert torch.equal(found.sequences[row, : 37 + count], plain[row, : 37 + count])
        read = found.sequences[row, 37 - length : 37 + count - 1]
        assert_same(found.past_key_values.select([row]), lm.compress(read[None]))


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """What is warned of or logged, by whoever warns only once too."""
    transformers_logging.warning_once.cache_clear()
    heard: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield heard
        heard += [str(warning.message) for warning in caught]
    logger.removeHandler(handler)


@pytest.mark.parametrize("length", [20, 90, 250])
@pytest.mark.parametrize("beams", [1, 2])
def test_nobody_complains_of_length_while_slots_fit(length: int, beams: int, complaints: list[str]) -> None:
    lm = model(positions=64, ratios=(8,))
    config = GenerationConfig(max_new_tokens=60, do_sample=False, num_beams=beams, pad_token_id=0)
    found = lm.generate(tokens(1, length), **config.to_diff_dict())
    assert found.shape == (1, length + 60) and complaints == []


def test_the_first_logits_within_a_window_are_the_backbones_to_the_bit() -> None:
    lm = tiny("qwen2").eval()
    for length in range(1, 9):
        ids = tokens(1, length)
        options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        found = lm.generate(ids, **options).logits[0]
        with torch.no_grad():
            assert torch.equal(lm(ids, use_cache=True).logits, lm.dense(ids).logits)
            assert torch.equal(found, lm.dense(ids, logits_to_keep=1).logits[:, -1])
