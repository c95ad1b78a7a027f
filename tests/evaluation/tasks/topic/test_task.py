import json
import re

import pytest

from beacon_lit.cli.evaluate import evaluate
from beacon_lit.evaluation import Subject, parse_mode, run
from beacon_lit.evaluation.tasks import TopicRetrieval
from tests.configs import composed, small_backbone, small_model
from tests.evaluation.fakes import AnsweringLM, byte_tokenizer


class Listener(AnsweringLM):
    """Names the topic that is asked for, as far as it sees them, with other words around."""

    tokenizer = byte_tokenizer()

    def said(self, text):
        topics = re.findall(r"the topic of (.+?)\.", text)
        number = int((re.findall(r"topic number (\d+)", text) or [1])[0])
        return f"It was {topics[number - 1].upper()}!" if number <= len(topics) else "What?"


def subject():
    return Subject(Listener(window=512), byte_tokenizer())


def listened(task, mode="dense"):
    return run({"topic": task}, subject(), [parse_mode(mode)], batch_size=3, progress=False)["topic"][mode]


def record(*topics, **changed):
    talk = "".join(f" \n USER: I would like to discuss the topic of {topic}. \n ASSISTANT: Sure!" for topic in topics)
    context = f"A record.{talk} \n USER: Great, this is the end of our discussion. Now it ends."
    return {"context": context, "question": "?", "topics": list(topics), "num_topics": len(topics), **changed}


def write(file, *records):
    file.write_text("".join(json.dumps(line) + "\n" for line in records))
    return str(file)


@pytest.mark.parametrize("target", ["first", "random"])
def test_a_listener_knows_the_topics_of_made_up_conversations(target):
    task = TopicRetrieval(None, num_topics=[2, 5], samples=4, target=target)
    score, again, deaf = listened(task), listened(task), listened(task, "window-only")
    assert score.value == 1 and score.details["topics_2"] == score.details["topics_5"] == 1
    assert 0.7 < score.details["f1"] < 1 and score.details.keys() >= {"f1/topics_2", "f1/topics_5"}
    assert deaf.value == 0 and deaf.details["f1"] < 0.3
    records = score.predictions
    assert [r["prediction"] for r in records] == [r["prediction"] for r in again.predictions]
    asked = {r["asked"] for r in records}
    assert asked == {1} if target == "first" else len(asked) > 2 and asked <= set(range(1, 6))
    assert {r["source"] for r in records} == {"made-up"} and not any("context" in r for r in records)
    assert len({r["answer"] for r in records}) == 8


def test_seeds_decide():
    def asked(seed):
        task = TopicRetrieval(None, num_topics=[9], samples=6, target="random", seed=seed)
        return [(example.about["asked"], example.content) for example in task.examples(subject())]

    assert asked(0) == asked(0) and not {text for _, text in asked(0)} & {text for _, text in asked(1)}
    assert [number for number, _ in asked(0)] != [number for number, _ in asked(1)]


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_conversations_are_read_from_a_file(tmp_path, ending):
    records = [record("a b", "c"), record("d"), record("e", "f"), record("g", "h"), record("i", "j", "k")]
    file = tmp_path / f"topics.{ending}"
    write(file, *records)
    if ending == "json":
        file.write_text(json.dumps(records))
    task = TopicRetrieval(str(file), num_topics=[1, 2], samples=2)
    assert [example.about["answer"] for example in task.examples(subject())] == ["d", "a b", "e"]
    one, two = (example.content for example in task.examples(subject())[:2])
    assert "this is the end" not in one and "Sure! The record ends here. What is the first topic" in one
    assert "this is the end of our discussion. Now it ends. What is the first topic" in two
    score = listened(task)
    assert score.value == 1 and score.details["topics_1"] == 1 and score.predictions[0]["source"] == str(file)


@pytest.mark.parametrize(
    ("said", "score", "f1"), [("THE Sea, of course", 1, 0.5), ("a lake", 0, 0), ("se a", 0, 0), ("", 0, 0)]
)
def test_answers_name_the_topic(said, score, f1):
    graded = TopicRetrieval(None).grade({"prediction": said, "answer": "the sea"})
    assert graded == {"score": score, "f1": pytest.approx(f1)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(context=3), "context must be a string"),
        (dict(topics="a"), "topics must be a list"),
        (dict(topics=["a", ""]), "topics must be a list"),
        (dict(num_topics=3), "num_topics is 3, but there are 2"),
    ],
)
def test_bad_records_are_named(tmp_path, changed, message):
    path = write(tmp_path / "t.jsonl", record("a", "b"), record("a", "b", **changed))
    with pytest.raises(ValueError, match=rf"t\.jsonl, line 2: {message}"):
        TopicRetrieval(path, num_topics=[2]).examples(subject())


def test_what_is_not_there_is_named(tmp_path):
    path = write(tmp_path / "t.jsonl", record("a", "b"))
    with pytest.raises(ValueError, match=r"num_topics=\[5\] is not allowed; allowed: 2, those of"):
        TopicRetrieval(path, num_topics=[2, 5]).examples(subject())
    with pytest.raises(ValueError, match=r"path='/nowhere.json'.*path=null for made-up"):
        TopicRetrieval("/nowhere.json").examples(subject())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(num_topics=[]), "num_topics="),
        (dict(num_topics=[0]), r"num_topics=\[0\]"),
        (dict(samples=0), "samples=0"),
        (dict(target="last"), "target='last' is not allowed; allowed: first, random"),
        (dict(template="none"), "template='none'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TopicRetrieval(None, **settings)


def test_the_config_evaluates(tmp_path):
    backbone = small_backbone(tmp_path / "backbone")
    (tmp_path / "longeval").mkdir()
    write(tmp_path / "longeval" / "topic_retrieval.json", record("a", "b"), record("c", "d", "e"))
    overrides = [*small_model(backbone), "ratio=4", "task=[topic]"]
    overrides += [f"task.topic.data_root={tmp_path}", "task.topic.num_topics=[2,3]", f"run_folder={tmp_path}/out"]
    metrics = evaluate(composed("evaluate", *overrides))
    names = {f"topic/{mode}/topics_{n}" for mode in ("dense", "window-only", "ratio_4") for n in (2, 3)}
    assert names <= metrics.keys() and (tmp_path / "out" / "topic_by_number.png").is_file()
    assert evaluate(composed("evaluate", *overrides, f"rescore={tmp_path}/out")) == metrics
