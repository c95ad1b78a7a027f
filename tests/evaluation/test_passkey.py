import pytest

from beacon_lit.evaluation import Passkey, Subject, parse_mode
from beacon_lit.evaluation.runner import evaluating
from tests.evaluation.fakes import FakeLM, byte_tokenizer

TASK = Passkey(lengths=(256, 300), depths=(0, 50, 100), samples=2)


def evaluate(task, mode, bos=False, **model):
    lm = FakeLM(**model)
    with evaluating(lm):
        return task.evaluate(Subject(lm, byte_tokenizer(bos)), parse_mode(mode))


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("mode", ["dense", 2])
def test_a_model_that_copies_finds_every_key(mode, bos):
    score = evaluate(TASK, mode, bos)
    assert score.value == 1 and score.details["token_accuracy"] == 1
    assert len(score.predictions) == 12
    assert all(record["correct"] and record["guess"] == record["key"] for record in score.predictions)


def test_without_memory_a_key_outside_the_last_window_is_lost():
    score = evaluate(TASK, "window-only", window=64)
    assert score.value == 0 and score.details["token_accuracy"] < 0.5
    assert not any(record["correct"] for record in score.predictions)


def test_without_memory_a_key_inside_the_last_window_is_found():
    """Windows of 160 tokens: a prompt of 300 shows the statement at depth 100, one of 320 ends on a border."""
    score = evaluate(Passkey(lengths=(300, 320), depths=(0, 100)), "window-only", window=160)
    cells = {name: value for name, value in score.details.items() if name.startswith("length")}
    assert cells == {
        "length_300/depth_0": 0,
        "length_300/depth_100": 1,
        "length_320/depth_0": 0,
        "length_320/depth_100": 0,
    }
    assert score.value == 0.25


def test_one_wrong_digit_is_a_wrong_key_but_not_a_wrong_token():
    score = evaluate(Passkey(lengths=(300,), depths=(50,), samples=20), 2, window=64)
    assert score.value == 1
    lossy = evaluate(Passkey(lengths=(320,), depths=(100,), samples=20), "window-only", window=160)
    assert lossy.value == 0 < lossy.details["token_accuracy"] < 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(lengths=()), "lengths: got"),
        (dict(lengths=(9, 9)), "lengths: got"),
        (dict(lengths=(9,), depths=()), "depths: got"),
        (dict(lengths=(9,), depths=(50, 120)), r"depths: got \[120\]; must be between 0 and 100"),
        (dict(lengths=(9,), samples=0), "samples: got 0; must be at least 1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Passkey(**settings)


def test_a_length_without_room_for_the_text_is_an_error():
    with pytest.raises(ValueError, match="length: got 8; a passkey prompt needs at least"):
        evaluate(Passkey(lengths=(8,)), "dense")
