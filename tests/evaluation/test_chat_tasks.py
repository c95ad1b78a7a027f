"""Multi-session chat, multi-turn perplexity and generation, on files as they are published."""

import json
from math import exp
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.cli import resolvers
from beacon_lit.cli.evaluate import evaluate
from beacon_lit.evaluation import Subject, parse_mode, run
from beacon_lit.evaluation.tasks import Generation, MultiSessionChat, MultiTurnPerplexity
from beacon_lit.tiny import byte_tokenizer as chat_tokenizer
from tests.configs import composed
from tests.evaluation.fakes import WINDOW, FakeLM, byte_tokenizer

resolvers.register()


def write(file: Path, *rows) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def asked(task, mode="dense", tokenizer=None, lm=None, batch_size=2):
    subject = Subject(lm or FakeLM(), tokenizer or byte_tokenizer())
    (score,) = run({"task": task}, subject, [parse_mode(mode)], batch_size=batch_size, progress=False)["task"].values()
    return score


def chat(*contents: str, system: str | None = None) -> dict:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return {"conversations": messages}


# Multi-session chat: the model copies what followed the latest words before.
SESSION = "My dog is called Rex. I like tea.\n" + "The hills are low. " * 5
MSC = {"context": SESSION, "input": "What is it? My dog is called", "output": "Rex!"}


def test_an_answer_repeats_what_was_said_in_an_earlier_session(tmp_path):
    path = write(tmp_path / "msc.json", MSC, {**MSC, "output": "rex was tired of it"})
    score = asked(MultiSessionChat(path))
    assert [record["prediction"].startswith(" Rex. I like tea.") for record in score.predictions] == [True, True]
    assert [record["score"] for record in score.predictions] == [1, 0.2] and score.value == pytest.approx(0.6)
    assert all(record["tokens_out"] == 20 and record["template"] == "plain" for record in score.predictions)
    assert "context" not in score.predictions[0] and score.predictions[0]["answer"] == "Rex!"


def test_without_memory_of_it_there_is_nothing_to_repeat(tmp_path):
    assert asked(MultiSessionChat(write(tmp_path / "msc.json", MSC)), "window-only").value == 0


@pytest.mark.parametrize("bos", [False, True])
def test_a_long_prompt_loses_its_start(tmp_path, bos):
    """The end is kept, so the question is; what the answer is in is not."""
    tokenizer = byte_tokenizer(bos)
    whole = tokenizer(f"{SESSION}\n{MSC['input']}", add_special_tokens=False)["input_ids"]
    path = write(tmp_path / "msc.json", MSC)
    cut = asked(MultiSessionChat(path, max_tokens=60), tokenizer=tokenizer)
    assert cut.predictions[0]["tokens_in"] == 60 + bos and cut.predictions[0]["tokens_dropped"] == len(whole) - 60
    assert cut.value == 0 and asked(MultiSessionChat(path, max_tokens=len(whole)), tokenizer=tokenizer).value == 1


def test_an_empty_answer_scores_nothing():
    task = MultiSessionChat()
    assert task.grade({"prediction": "", "answer": "Rex!"}) == {"score": 0}
    assert task.grade({"prediction": "REX, of course", "answer": "rex"}) == {"score": 1}


def test_records_and_settings_of_multi_session_chat(tmp_path):
    with pytest.raises(ValueError, match=r"msc\.json, line 2: output must be a string"):
        asked(MultiSessionChat(write(tmp_path / "msc.json", MSC, {**MSC, "output": 3})))
    with pytest.raises(ValueError, match=r"msc\.json, line 1: the record lacks input"):
        asked(MultiSessionChat(write(tmp_path / "msc.json", {"context": "a", "output": "b"})))
    with pytest.raises(ValueError, match="max_tokens: got 0"):
        MultiSessionChat(max_tokens=0)
    with pytest.raises(ValueError, match="max_new_tokens: got 0"):
        MultiSessionChat(max_new_tokens=0)


# Perplexity of turns.
@pytest.fixture(scope="module")
def lm():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.3,
    )  # fmt: skip
    return BeaconLM.from_config(config, BeaconConfig(window=WINDOW, ratios=(2, 4), sink=1))


TURNS = [
    chat("Who?", "The fox.", "Where?", "In the hills, at night.", "Why?", "To sing.", "Sure?", "Yes."),
    chat("One", "two", system="Count."),
]


@pytest.mark.parametrize("mode", ["dense", "window-only", 2])
def test_turns_are_scored_each_after_all_before_it(tmp_path, lm, mode):
    """Against the losses of the conversation as one text, at the places where the answers are in it."""
    tokenizer = chat_tokenizer()
    score = asked(MultiTurnPerplexity(write(tmp_path / "turns.json", *TURNS)), mode, tokenizer, lm)
    totals: dict[int, list[float]] = {}
    means = []
    for row in TURNS:
        messages = row["conversations"][:6]
        answers = [message["content"] for message in messages if message["role"] == "assistant"]
        text = tokenizer.apply_chat_template(messages, tokenize=False)[: -len("\n")]
        ids = tokenizer(text)["input_ids"]
        losses = token_losses(lm, mode, ids)
        own = []
        for turn, answer in enumerate(answers):
            end = len(tokenizer(text[: text.index(f"{answer}<|im_end|>") + len(f"{answer}<|im_end|>")])["input_ids"])
            start = end - len(answer) - 1  # a token per byte, and the end of the turn
            totals.setdefault(turn, []).extend(losses[start:end])
            own += losses[start:end]
        means.append(sum(own) / len(own))
    assert score.details == pytest.approx({
        **{f"turn_{turn + 1}": exp(sum(part) / len(part)) for turn, part in totals.items()},
        "by_conversation": exp(sum(means) / len(means)),
    }, rel=1e-4)  # fmt: skip
    every = [loss for part in totals.values() for loss in part]
    assert score.value == pytest.approx(exp(sum(every) / len(every)), rel=1e-4)
    assert [len(record["tokens_by_turn"]) for record in score.predictions] == [3, 1]


def token_losses(lm, mode, ids):
    lm.eval()
    with torch.no_grad():
        ids = torch.tensor([ids])
        logits = (
            lm.dense(ids).logits if mode == "dense" else lm(ids, ratios={"window-only": "drop"}.get(mode, mode)).logits
        )
        log_p = logits[0, :-1].double().log_softmax(-1)
    return [0.0, *(-log_p.gather(1, ids[0, 1:, None])[:, 0]).tolist()]


def test_fewer_turns_are_the_beginning_of_more(tmp_path, lm):
    path = write(tmp_path / "turns.json", *TURNS)
    one, two = (asked(MultiTurnPerplexity(path, turns=turns), 2, chat_tokenizer(), lm) for turns in (1, 2))
    assert set(one.details) == {"turn_1", "by_conversation"} and set(two.details) == {*one.details, "turn_2"}
    assert one.value == pytest.approx(one.details["turn_1"])


def test_conversations_and_settings_of_multi_turn_perplexity(tmp_path, lm):
    path = write(tmp_path / "turns.json", TURNS[0], chat("Anyone?"))
    with pytest.raises(ValueError, match=r"record turns\.json:2 lacks an answer"):
        asked(MultiTurnPerplexity(path), 2, chat_tokenizer(), lm)
    assert len(asked(MultiTurnPerplexity(path, max_examples=1), 2, chat_tokenizer(), lm).predictions) == 1
    with pytest.raises(ValueError, match=r"turns\.json:1: .*has none"):
        asked(MultiTurnPerplexity(path), 2, byte_tokenizer())
    with pytest.raises(ValueError, match=r"record turns\.json:1 has text; allowed: conversations"):
        asked(MultiTurnPerplexity(write(tmp_path / "turns.json", {"text": "a"})), 2, chat_tokenizer(), lm)
    with pytest.raises(ValueError, match=r"turns\.json, line 1: roles must be user, assistant"):
        bad = {"conversations": [{"role": "assistant", "content": "a"}]}
        asked(MultiTurnPerplexity(write(tmp_path / "turns.json", bad)), 2, chat_tokenizer(), lm)
    with pytest.raises(ValueError, match="turns: got 0"):
        MultiTurnPerplexity(turns=0)


# Generation.
def test_answers_are_compared_with_those_in_the_file(tmp_path):
    rows = [chat("The fox is red. The fox is", "red, red"), chat("The fox is red. The fox is", "blue", "No!", "red")]
    task = Generation(write(tmp_path / "chats.jsonl", *rows), max_new_tokens=6)
    score = asked(task)
    said = [record["prediction"] for record in score.predictions]
    assert said[0] == said[1] and said[0].startswith(" red. The")
    assert [record["answer"] for record in score.predictions] == ["red, red", "blue"]
    assert score.predictions[0]["score"] > 0 and score.predictions[1]["score"] == 0
    assert score.value == score.predictions[0]["score"] / 2 and task.metric == "ROUGE-L"
    assert score.details == {"tokens_out": 6, "ended": 0}


def test_without_comparing_the_score_is_the_answers_length(tmp_path):
    path = write(tmp_path / "chats.jsonl", chat("The fox is red. The fox is"))
    task = Generation(path, compare=False, max_new_tokens=5)
    score = asked(task)
    assert score.value == 5 and task.metric == "answer length (tokens)" and "answer" not in score.predictions[0]
    with pytest.raises(ValueError, match=r"record chats\.jsonl:1 has no answer, which compare=true needs"):
        asked(Generation(path))
    with pytest.raises(ValueError, match="max_new_tokens: got 0"):
        Generation(path, max_new_tokens=0)


def test_a_system_message_is_asked_with(tmp_path):
    path = write(tmp_path / "chats.jsonl", chat("Hello", "Hi", "Bye", "Bye", system="Be brief."))
    task = Generation(path, max_new_tokens=2)
    record = asked(task, tokenizer=chat_tokenizer()).predictions[0]
    opening = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert record["tokens_in"] == len(chat_tokenizer()(opening)["input_ids"]) and record["template"] == "chat"
    with pytest.raises(ValueError, match="messages are not allowed in a plain prompt"):
        asked(Generation(path, template="plain"))


def test_through_the_configs_twice_and_graded_anew(tmp_path):
    write(tmp_path / "memgpt" / "msc.json", MSC)
    write(tmp_path / "sharegpt" / "3-turn.json", *TURNS)
    chats = write(tmp_path / "chats.jsonl", *TURNS)
    names = ["msc", "multi_turn_perplexity", "generation"]
    overrides = ["model=tiny", "beacon.window=32", f"task=[{','.join(names)}]", "ratio=4", "batch_size=2"]
    overrides += [f"task.{name}.data_root={tmp_path}" for name in names]
    overrides += [f"task.generation.path={chats}", "task.generation.max_new_tokens=4"]
    found = [evaluate(composed("evaluate", *overrides, f"run_folder={tmp_path / name}")) for name in "ab"]
    assert found[0] == found[1]
    assert {f"{name}/{mode}" for name in names for mode in ("dense", "window-only", "ratio_4")} <= found[0].keys()
    again = evaluate(composed("evaluate", *overrides, f"run_folder={tmp_path / 'a'}", f"rescore={tmp_path / 'a'}"))
    assert again == found[0]
