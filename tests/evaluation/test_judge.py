import pytest

from beacon_lit.evaluation.judge import NO_JUDGE, Judge
from beacon_lit.evaluation.tasks import Needle
from tests.evaluation.judges import judging


def grade(reply, **settings):
    with judging(reply) as (url, requests):
        judge = Judge(url, "grader", **{"pause": 0.001, "retries": 2, "timeout": 5, **settings})
        return judge.grade("What?", "It is {b}.", "b"), requests


@pytest.mark.parametrize(
    ("reply", "score"), [("Score: 7", 7), ("**Score**: 10", 10), ("1", 1), ("9/10", 9), ("It fits.\nscore = 3", 3)]
)
def test_a_score_is_read(reply, score, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    graded, requests = grade(lambda _: reply, api_key="SOME_KEY")
    assert graded == {"judge": score, "judge_error": None}
    (request,) = requests
    assert request["path"] == "/v1/chat/completions" and request["key"] == "Bearer secret"
    assert request["model"] == "grader" and request["temperature"] == 0
    assert all(text in request["messages"][0]["content"] for text in ("What?", "It is {b}.", "Answer to grade: b"))


@pytest.mark.parametrize("reply", ["I like it", "Score: 11", "Score: 0", "Score: 7.5", "3 or 4"])
def test_a_reply_without_a_score_is_asked_again_and_then_told(reply):
    graded, requests = grade(lambda _: reply)
    assert graded["judge"] is None and "no score from 1 to 10" in graded["judge_error"] and len(requests) == 3


def test_no_key_is_sent_where_there_is_none(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert grade(lambda _: "5")[1][0]["key"] is None


def test_errors_that_pass_are_asked_again():
    graded, requests = grade({1: 500, 2: 429, 3: "Score: 4"}.get)
    assert graded["judge"] == 4 and len(requests) == 3


@pytest.mark.parametrize(("status", "attempts"), [(500, 3), (401, 1), (404, 1)])
def test_errors_that_stay_are_told(status, attempts):
    graded, requests = grade(lambda _: status)
    assert graded["judge"] is None and f"HTTP {status}" in graded["judge_error"] and len(requests) == attempts


def test_a_slow_judge_is_not_waited_for():
    graded, requests = grade(lambda number: 0.5 if number == 1 else "8", timeout=0.1)
    assert graded["judge"] == 8 and len(requests) == 2
    graded, _ = grade(lambda _: 0.3, timeout=0.05, retries=0)
    assert graded["judge"] is None and "Timeout" in graded["judge_error"]


def test_a_judge_that_is_down_is_told():
    with judging(lambda _: "5") as (url, _):
        pass
    graded = Judge(url, "grader", retries=1, pause=0.001).grade("", "", "")
    assert graded["judge"] is None and "ConnectError" in graded["judge_error"]


def test_failed_grades_are_left_out_of_the_mean_and_counted():
    record = {"prediction": "b", "needle": "A b.", "question": "?", "answer": "b", "length": 9, "depth": 0}
    with judging({1: "Score: 9", 2: "what", 3: "Score: 4"}.get) as (url, _):
        task = Needle(lengths=(9,), metric="judge", judge=Judge(url, "grader", retries=0))
        records = [{**record, **task.grade(record)} for _ in range(3)]
    score = task.score(records)
    assert score.value == 6.5 and score.details["judge_failed"] == 1 and score.details["accuracy"] == 1
    assert task.score(records[1:2]).value != task.score(records[1:2]).value  # nan: there is none
    assert NO_JUDGE.grade("", "", "") == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(url="localhost:80", model="m"), r"judge\.url='localhost:80' is not allowed"),
        (dict(url="http://", model="m"), r"judge\.url='http://' is not allowed"),
        (dict(url="http://a"), r"judge\.model=None is not allowed"),
        (dict(timeout=0), r"judge\.timeout=0"),
        (dict(retries=-1), r"judge\.retries=-1"),
        (dict(pause=-1), r"judge\.pause=-1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Judge(**settings)
