import pytest

from beacon_lit.data.retrieval.passkey import passkey_sample
from beacon_lit.evaluation import Passkey, Subject, parse_mode, run
from tests.evaluation.fakes import FakeLM, byte_tokenizer
from tests.evaluation.finding import tokenizer

TASK = Passkey(lengths=(256, 300), depths=(0, 50, 100), samples=2)


def evaluate(task, mode, bos=False, **model):
    subject = Subject(FakeLM(**model), byte_tokenizer(bos))
    (score,) = run({"passkey": task}, subject, [parse_mode(mode)], batch_size=4, progress=False)["passkey"].values()
    return score


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("mode", ["dense", 2])
def test_a_model_that_copies_finds_every_key(mode, bos):
    score = evaluate(TASK, mode, bos)
    assert score.value == 1 and score.details["similarity"] == 1
    assert len(score.predictions) == 12
    assert all(record["score"] == 1 and record["guess"] == record["key"] for record in score.predictions)


def test_a_chat_asks_in_its_template_and_plain_text_as_ever():
    tokens = tokenizer(chat=True, bos=True)
    subject = Subject(None, tokens)
    settings = dict(lengths=(400,), depths=(50,))
    ((template, sample),) = (example.content for example in Passkey(**settings, template="auto").examples(subject))
    text = tokens.decode(sample.ids[:400])
    assert template == "chat" and text.startswith("<s>[user] One important") and sample.key in text
    assert text.endswith("What is the pass key?</s>\n[assistant] ") and sample.ids.count(tokens.bos_token_id) == 1
    ((template, sample),) = (example.content for example in Passkey(**settings).examples(subject))
    assert template == "plain" and sample == passkey_sample(tokens, 400, 50, prefix=subject.prefix)


def test_without_memory_a_key_outside_the_last_window_is_lost():
    score = evaluate(TASK, "window-only", window=64)
    assert score.value == 0 and score.details["similarity"] < 0.5
    assert not any(record["score"] for record in score.predictions)


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


@pytest.mark.parametrize(
    ("said", "guess", "score", "similarity"),
    [
        ("12345. Do not", "12345", 1, 1),
        (" The key: 12345", "12345", 1, 1),
        ("12945", "12945", 0, 0.8),
        ("123456", "123456", 0, 1),
        ("12", "12", 0, 0.4),
        ("I do not know", "", 0, 0),
        ("", "", 0, 0),
    ],
)
def test_the_first_number_of_an_answer_counts(said, guess, score, similarity):
    graded = TASK.grade({"prediction": said, "key": "12345"})
    assert graded == {"guess": guess, "score": score, "similarity": similarity}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(lengths=()), "lengths="),
        (dict(lengths=(9, 9)), "lengths="),
        (dict(lengths=(9,), depths=()), "depths="),
        (dict(lengths=(9,), depths=(50, 120)), r"depths=\[50, 120\] is not allowed; .* between 0 and 100"),
        (dict(lengths=(9,), template="raw"), "template='raw' is not allowed"),
        (dict(lengths=(9,), samples=0), "samples=0 is not allowed; allowed: at least 1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Passkey(**settings)


def test_a_length_without_room_for_the_text_is_an_error():
    with pytest.raises(ValueError, match="length=8 is too short for a passkey prompt; must be at least"):
        evaluate(Passkey(lengths=(8,)), "dense")
