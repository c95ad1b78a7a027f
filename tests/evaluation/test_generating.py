"""What a Reader says is the model's greedy answer, whatever else is in the batch and whatever the model's settings."""

import dataclasses

import pytest
import torch
from transformers import DynamicCache, GenerationConfig

from beacon_lit import BeaconConfig
from beacon_lit.evaluation import (
    Converse,
    Example,
    Generate,
    Score,
    ScoreOptions,
    ScoreText,
    Subject,
    Task,
    execute,
    parse_mode,
    run,
)
from beacon_lit.evaluation.generating import end_tokens
from beacon_lit.evaluation.prompts import CHAT, Prompt
from beacon_lit.evaluation.reader import Reader
from beacon_lit.tiny import byte_tokenizer
from tests.arch.tiny import tiny

LENGTHS = (55, 1, 16, 33, 5)
MODES = ("dense", "window-only", 2, 8, "adapt-16")
NEW = 20


@pytest.fixture(scope="module")
def subject():
    beacon = BeaconConfig(window=16, ratios=(2, 4, 8), sink=1, overlap=4, placement="interleave")
    lm = tiny("qwen3", beacon, vocab_size=258, head_dim=16, max_position_embeddings=64).eval()
    lm.generation_config = GenerationConfig()
    return Subject(lm, byte_tokenizer())


def prompts(lengths=LENGTHS, template="plain"):
    generator = torch.Generator().manual_seed(7)
    return [Prompt(torch.randint(97, 123, (length,), generator=generator).tolist(), template) for length in lengths]


def generate(subject, mode, asked, *args, **settings):
    with torch.no_grad():
        requests = [Generate(prompt, *args, **settings) for prompt in asked]
        found = execute(Reader(subject, parse_mode(mode)), requests)
    assert len({record.pop("seconds") for record in found}) == 1
    return found


def greedy(subject, mode, ids, count):
    """Token after token, each from a whole pass over the text so far."""
    lm, new = subject.lm, []
    with torch.no_grad():
        for _ in range(count):
            text = torch.tensor([[*ids, *new]])
            if mode == "dense":
                logits = lm.dense(text).logits[0, -1]
            else:
                logits = lm(text, ratios="drop" if mode == "window-only" else mode).logits[0, -1]
            new.append(int(logits.argmax()))
    return new


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_equals_its_prompts_alone(subject, mode):
    together = generate(subject, mode, prompts(), NEW)
    alone = [generate(subject, mode, [prompt], NEW)[0] for prompt in prompts()]
    assert together == alone
    assert len({record["prediction"] for record in alone}) == len(LENGTHS)


@pytest.mark.parametrize("mode", ["dense", "window-only", 4])
def test_answers_are_the_argmax_of_whole_passes(subject, mode):
    ids = prompts()[3].ids
    (found,) = generate(subject, mode, [Prompt(ids)], NEW)
    expected = greedy(subject, mode, ids, found["tokens_out"])
    text = subject.tokenizer.decode(expected, skip_special_tokens=True)
    assert found["prediction"] == text and found["ended_by"] in ("length", "<|im_end|>")


OTHERS = {
    "do_sample": True, "temperature": 9.0, "top_p": 0.1, "top_k": 1, "min_p": 0.5, "typical_p": 0.5, "num_beams": 3,
    "num_return_sequences": 2, "repetition_penalty": 9.0, "encoder_repetition_penalty": 3.0, "no_repeat_ngram_size": 1,
    "bad_words_ids": [[101]], "suppress_tokens": list(range(97, 115)), "begin_suppress_tokens": list(range(97, 123)),
    "forced_eos_token_id": 99, "forced_bos_token_id": 98, "min_length": 99, "min_new_tokens": 9, "max_new_tokens": 2,
    "exponential_decay_length_penalty": (1, 9.0), "sequence_bias": [[[100], 50.0]], "guidance_scale": 3.0,
    "stop_strings": ["a", "e", "t"], "max_time": 1e-9, "renormalize_logits": True, "remove_invalid_values": True,
    "output_scores": True, "pad_token_id": 5, "use_cache": False, "prompt_lookup_num_tokens": 3, "token_healing": True,
}  # fmt: skip


@pytest.mark.parametrize("mode", ["dense", 2])
@pytest.mark.parametrize("together", [True, False])
def test_settings_of_the_model_change_nothing_and_stay(subject, mode, together):
    lm, asked = subject.lm, prompts((40, 20))
    plain = lm.generation_config = GenerationConfig()
    expected = generate(subject, mode, asked, NEW)
    for values in [OTHERS] if together else [{name: value} for name, value in OTHERS.items()]:
        own = lm.generation_config = GenerationConfig()
        for name, value in values.items():
            setattr(own, name, value)
        before = own.to_dict()
        assert generate(subject, mode, asked, NEW) == expected, values
        assert lm.generation_config is own and own.to_dict() == before
    lm.generation_config = plain


def test_the_models_settings_come_back_after_an_error(subject):
    own = subject.lm.generation_config
    with pytest.raises(ValueError, match="too many at ratio 2"):
        generate(subject, 2, prompts((400,)), NEW)
    with pytest.raises(IndexError):
        generate(subject, 2, [Prompt([])], NEW)
    assert subject.lm.generation_config is own


@pytest.mark.parametrize("mode", ["dense", "window-only"])
def test_every_kind_of_end(subject, mode):
    lm, tokenizer, ids = subject.lm, subject.tokenizer, prompts()[3].ids
    said = greedy(subject, mode, ids, NEW)
    third = next(i for i, token in enumerate(said) if i > 1 and token not in said[:i])
    lm.generation_config.eos_token_id = [1, said[third]]
    found = generate(subject, mode, [Prompt(ids)], NEW)[0]
    assert found["tokens_out"] == third + 1 and found["ended_by"] == tokenizer.convert_ids_to_tokens(said[third])
    assert found["prediction"] == tokenizer.decode(said[:third], skip_special_tokens=True)
    later = generate(subject, mode, [Prompt(ids)], NEW, min_new_tokens=third + 3)[0]
    assert later["tokens_out"] >= third + 3
    assert lm.generation_config.eos_token_id == [1, said[third]]
    lm.generation_config.eos_token_id = None
    assert generate(subject, mode, [Prompt(ids)], NEW, end_tokens=[said[third]])[0] == found
    whole = generate(subject, mode, [Prompt(ids)], third)[0]
    assert whole["ended_by"] == "length" and whole["tokens_out"] == third
    assert whole["prediction"] == found["prediction"]


@pytest.mark.parametrize("mode", ["dense", "window-only"])
@pytest.mark.parametrize("eos", [None, 1])
def test_a_stop_string_ends_its_row_alone(subject, mode, eos):
    subject.lm.generation_config.eos_token_id = eos
    asked = prompts((33, 40, 12))
    free = generate(subject, mode, asked, NEW)
    stop = free[0]["prediction"][3:5]
    first = free[0]["prediction"].index(stop)
    alone = [generate(subject, mode, [prompt], NEW, stop=[stop, "never said"])[0] for prompt in asked]
    assert generate(subject, mode, asked, NEW, stop=[stop, "never said"]) == alone
    assert alone[0]["prediction"] == free[0]["prediction"][:first] and alone[0]["ended_by"] == "stop"
    assert alone[0]["tokens_out"] < NEW
    assert len({record["tokens_out"] for record in alone}) > 1
    subject.lm.generation_config.eos_token_id = None


def test_a_stop_string_counts_in_the_answer_alone(subject):
    texts = (prompt.ids for prompt in prompts(range(20, 40)))
    ids = next(text for text in texts if greedy(subject, "dense", text, 1)[0] < 94)  # ASCII
    said = subject.tokenizer.decode(greedy(subject, "dense", ids, NEW), skip_special_tokens=True)
    across = subject.tokenizer.decode(ids[-1:]) + said[0]
    assert across not in said
    found = generate(subject, "dense", [Prompt(ids)], NEW, stop=[across])[0]
    assert found["tokens_out"] > 1 and said.startswith(found["prediction"])


def test_the_end_of_a_turn_ends_an_answer_in_a_chat(subject):
    subject.lm.generation_config.eos_token_id = None
    assert end_tokens(subject, CHAT, [7]) == (257, 7) and end_tokens(subject, "plain") == (257,)
    subject.tokenizer.eos_token = "<|im_start|>"
    assert end_tokens(subject, CHAT) == (256, 257)
    subject.tokenizer.eos_token = "<|im_end|>"


@pytest.mark.parametrize("mode", ["dense", 4])
def test_cache_bytes_are_those_of_the_cache(subject, mode):
    ids, lm = prompts()[3].ids, subject.lm
    assert lm.config.head_dim != lm.config.hidden_size // lm.config.num_attention_heads
    (found,) = generate(subject, mode, [Prompt(ids)], NEW)
    text = torch.tensor([[*ids, *greedy(subject, mode, ids, found["tokens_out"])]])
    with torch.no_grad():
        if mode == "dense":
            cache = DynamicCache()
            lm.dense(text, past_key_values=cache, use_cache=True)
            size = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
        else:
            size = lm(text[:, :-1], ratios=mode, use_cache=True).cache.nbytes  # it has not read the last token
    assert found["cache_bytes"] == size


def test_adapt_takes_the_smallest_ratio_that_fits(subject):
    """64 slots, of which 1 is the sink's, 4 the overlap's and 16 + 16/a the open window's."""
    lm = subject.lm
    most = {2: 79, 4: 159, 8: 335}  # (64 - 1 - 4 - 16 - 16/a) // (16/a) + 1 windows, less a token
    room = NEW + 16
    asked = prompts((most[2] - room, most[2] - room + 1, most[4] - room + 1, 1))
    found = generate(subject, "adapt-16", asked, NEW)
    assert [record["ratio"] for record in found] == [2, 4, 8, 2]
    for record, prompt in zip(found, asked, strict=True):
        fixed = generate(subject, record["ratio"], [prompt], NEW)[0]
        assert record == fixed
    assert lm.beacon.ratios == (2, 4, 8)


def test_too_long_a_text_names_the_ratio_that_would_fit(subject):
    with pytest.raises(
        ValueError, match=r"100 tokens, .* at ratio 2; allowed: at most 79, .* or ratio=4, the smallest"
    ):
        generate(subject, 2, prompts((80,)), NEW)
    with pytest.raises(ValueError, match=r"2020 tokens.* at ratio 8; allowed: at most 335.*; no ratio fits them"):
        generate(subject, "adapt-16", prompts((2000,)), NEW)
    reader = Reader(subject, parse_mode(2))
    for request in (ScoreText([5] * 80), ScoreOptions(Prompt([5] * 79), [[1, 2]]), Converse([[5] * 10, [5] * 30], NEW)):
        with pytest.raises(ValueError, match="80 tokens"):
            execute(reader, [request])


@dataclasses.dataclass(frozen=True)
class Asked(Task):
    """Prompts of some lengths."""

    lengths: tuple

    def examples(self, subject):
        return [Example(f"of {length}", content=prompts((length,))[0]) for length in self.lengths]

    def request(self, subject, example):
        return Generate(example.content, NEW)

    def score(self, records):
        return Score(float(len(records)))


def test_a_run_says_where_a_text_was_too_long(subject):
    modes = [parse_mode("dense"), parse_mode(4), parse_mode(2)]
    with pytest.raises(ValueError, match=r"task=asked, ratio 2, example of 80: 100 tokens.* or ratio=4"):
        run({"asked": Asked((5, 80))}, subject, modes, batch_size=2, progress=False)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "two"])
def test_a_bad_batch_size_is_named(subject, size):
    with pytest.raises(ValueError, match=f"batch_size={size} is not allowed; allowed: an integer, at least 1"):
        run({"asked": Asked((5,))}, subject, [parse_mode(2)], batch_size=size)


def test_turns_over_one_cache_are_the_texts_read_at_once(subject):
    """Until a window closes, which makes tokens be read again with beacons."""
    subject.lm.generation_config.eos_token_id = None
    first, *_, second = prompts((6, 6, 6, 6, 4))
    for mode in ("dense", 2):
        with torch.no_grad():
            (found,) = execute(Reader(subject, parse_mode(mode)), [Converse([first.ids, second.ids], 3)])
            said = found["turns"]
        answer = greedy(subject, mode, first.ids, said[0]["tokens_out"])
        kept = [token for token in answer if token != 257]  # without what ended it
        (whole,) = generate(subject, mode, [Prompt([*first.ids, *kept, *second.ids])], 3)
        assert said[1]["prediction"] == whole["prediction"]
        assert sum(record["tokens_in"] for record in said) == whole["tokens_in"]
