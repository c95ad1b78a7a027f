import pytest

from beacon_lit.evaluation.tasks import MultiSessionChat
from tests.evaluation.chats import MSC, SESSION, asked, write
from tests.evaluation.fakes import byte_tokenizer


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
    with pytest.raises(ValueError, match="max_tokens=0"):
        MultiSessionChat(max_tokens=0)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        MultiSessionChat(max_new_tokens=0)
