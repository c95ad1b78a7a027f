import pytest

from beacon_lit.cli.evaluate import evaluate
from beacon_lit.evaluation import Subject, choose_modes, make_figures, run
from beacon_lit.evaluation.tasks.quote import Quote, edit_similarity
from tests.configs import composed
from tests.evaluation.fakes import FakeLM, byte_tokenizer
from tests.evaluation.finding import tokenizer

TASK = Quote(lengths=(1500, 1600), depths=(0, 50), samples=2, max_new_tokens=90)


@pytest.fixture(scope="module")
def scores():
    """The fake model copies what followed the given sentence, if it sees it."""
    lm = FakeLM(window=200)
    return run({"quote": TASK}, Subject(lm, byte_tokenizer()), choose_modes(lm), batch_size=3, progress=False)


def test_a_model_that_copies_quotes_and_one_without_memory_does_not(scores):
    for mode in ("dense", "ratio 2", "ratio 4"):
        score = scores["quote"][mode]
        assert score.value == 1 and score.details["similarity"] == 1 and score.details["length_1600/depth_50"] == 1
    lost = scores["quote"]["window-only"]
    assert lost.value == 0 and lost.details["similarity"] < 0.7
    assert set(make_figures({"quote": TASK}, {"": scores})) >= {
        "quote_by_ratio",
        "quote_similarity_by_depth_and_length",
    }


@pytest.mark.parametrize(("chat", "bos"), [(False, True), (True, True)])
def test_prompts_are_exact_and_have_the_two_sentences_side_by_side(chat, bos):
    tokens = tokenizer(chat, bos)
    texts = set()
    for example in TASK.examples(Subject(None, tokens)):
        ids, about = example.content.ids, example.about
        text = tokens.decode(ids)
        assert len(ids) == about["length"] and text.count(about["answer"]) == 1 and text.count(about["given"]) == 2
        assert tokens.decode(ids[about["position"] :]).startswith(f" {about['given']} {about['answer']}")
        assert text.endswith(("</s>\n[assistant] " if chat else " ") + about["given"])
        texts.add(text)
    assert len(texts) == 8
    assert TASK.examples(Subject(None, tokens)) == TASK.examples(Subject(None, tokens))


@pytest.mark.parametrize(
    ("said", "score", "similarity"),
    [
        (" It was\n so. And", 1, 1),
        ("> It was so.", 1, 0.6),
        ("It has so.", 0, 0.9),
        ("it was so.", 0, 0.9),
        ("", 0, 0),
    ],
)
def test_every_letter_counts_and_white_space_does_not(said, score, similarity):
    found = TASK.grade({"prediction": said, "answer": "It was so."})
    assert found == {"score": score, "similarity": pytest.approx(similarity)}


@pytest.mark.parametrize(
    ("text", "reference", "similarity"),
    [("kitten", "sitting", 1 - 3 / 7), ("abc", "", 0), ("", "", 1), ("ab", "ba", 0), ("abcd", "bcd", 0.75)],
)
def test_edit_similarity(text, reference, similarity):
    assert edit_similarity(text, reference) == pytest.approx(similarity)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(lengths=()), r"lengths=\[\] is not allowed"),
        (dict(depths=(101,)), r"depths=\[101\] is not allowed"),
        (dict(samples=0), "samples=0 is not allowed"),
        (dict(max_new_tokens=0), "max_new_tokens=0 is not allowed"),
        (dict(template="raw"), "template='raw' is not allowed"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Quote(**{"lengths": (900,), **settings})


def test_a_length_without_room_is_named():
    with pytest.raises(ValueError, match=r"lengths=40 is not allowed; allowed: at least \d+ tokens"):
        Quote(lengths=(40,)).examples(Subject(None, byte_tokenizer()))


def test_the_config_evaluates_and_its_records_can_be_graded_again(tmp_path):
    settings = ["model=tiny", "beacon.window=256", "task=[quote]", "ratio=4", "batch_size=2", "task.quote.depths=[0]"]
    settings += ["task.quote.lengths=[600,700]", "task.quote.max_new_tokens=8", f"run_folder={tmp_path}"]
    assert composed("evaluate", *settings[:3]).task.quote.lengths == [512, 602]
    metrics = evaluate(composed("evaluate", *settings))
    assert metrics["quote/dense"] == 0 and 0 <= metrics["quote/ratio_4/similarity"] < 0.5
    assert evaluate(composed("evaluate", *settings, f"rescore={tmp_path}")) == metrics
