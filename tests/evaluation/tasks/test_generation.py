import pytest

from beacon_lit.cli import resolvers
from beacon_lit.cli.evaluate import evaluate
from beacon_lit.data.sources import JsonSource
from beacon_lit.evaluation.tasks import Generation
from beacon_lit.tiny import byte_tokenizer as chat_tokenizer
from tests.configs import composed
from tests.evaluation.chats import MSC, TURNS, asked, chat, write

resolvers.register()


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
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        Generation(path, max_new_tokens=0)


def test_tools_and_weights_are_refused_because_no_task_asks_with_them(tmp_path, monkeypatch):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes", "weight": 0}]
    record = {"id": "chats.jsonl:1", "conversations": messages, "tools": [{"name": "weather"}]}
    monkeypatch.setattr(JsonSource, "documents", lambda self, tokenizer=None: iter([record]))
    task = Generation(write(tmp_path / "chats.jsonl", chat("Hello", "Hi")))
    with pytest.raises(ValueError, match=r"record chats\.jsonl:1 has weight, tools, which tasks do not ask with"):
        asked(task)


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
