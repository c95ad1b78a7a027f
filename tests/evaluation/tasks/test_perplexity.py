from math import exp

import pytest

from beacon_lit.evaluation import Perplexity, Subject, parse_mode, run
from beacon_lit.evaluation.tasks.perplexity import cut_excerpts
from tests.evaluation.fakes import WINDOW, FakeLM, byte_tokenizer

DOCUMENTS = [("a", list(range(100))), ("short", [1, 2]), ("b", list(range(200, 270)))]


def evaluate(task, mode, documents=DOCUMENTS, bos=False):
    subject = Subject(FakeLM(), byte_tokenizer(bos), lambda: documents)
    (score,) = run({"perplexity": task}, subject, [parse_mode(mode)], batch_size=2, progress=False)[
        "perplexity"
    ].values()
    return score


def test_pieces_take_turns_over_documents_and_do_not_overlap():
    pieces = cut_excerpts(DOCUMENTS, 30)
    assert [(piece.id, piece.start) for piece in pieces] == [("a", 0), ("b", 0), ("a", 30), ("b", 30), ("a", 60)]
    assert all(len(piece.ids) == 30 for piece in pieces)
    assert pieces[2].ids == list(range(30, 60))


def test_a_prefix_heads_each_piece_and_is_not_doubled():
    pieces = cut_excerpts([("a", [0, *range(1, 41)])], 11, prefix=[0])
    assert [piece.ids for piece in pieces] == [[0, *range(i, i + 10)] for i in (1, 11, 21, 31)]
    assert [piece.start for piece in pieces] == [1, 11, 21, 31]


def test_perplexity_is_the_exponential_of_the_mean_over_scored_tokens():
    length, first = 2 * WINDOW + 8, WINDOW - 1  # 15 tokens scored in the first window, 16, then 8
    score = evaluate(Perplexity(length=length), 2)
    later = 1.2
    assert score.value == pytest.approx(exp((first * 1 + (WINDOW + 8) * later) / (length - 1)))
    windows = {"window_0": exp(1), "window_1": exp(later), "window_2": exp(later)}
    assert score.details == pytest.approx({**windows, "by_document": score.value})
    assert len(score.predictions) == 3
    record = score.predictions[1]
    assert (record["document"], record["start"], record["tokens_by_window"]) == ("b", 0, [15, 16, 8])
    assert record["nll_by_window"] == pytest.approx([15, 16 * later, 8 * later])


@pytest.mark.parametrize(("mode", "later"), [("dense", 1), ("window-only", 3), (4, 1.4)])
def test_each_mode_asks_the_model_in_its_own_way(mode, later):
    score = evaluate(Perplexity(length=2 * WINDOW), mode)
    assert score.details["window_1"] == pytest.approx(exp(later))
    assert score.details["window_0"] == pytest.approx(exp(1))


def test_limits():
    assert len(evaluate(Perplexity(length=30), "dense").predictions) == 5
    assert [p["document"] for p in evaluate(Perplexity(length=30, max_pieces=2), "dense").predictions] == ["a", "b"]
    assert [p["document"] for p in evaluate(Perplexity(length=30, max_documents=1), "dense").predictions] == ["a"] * 3


def test_the_tokenizers_bos_heads_each_piece():
    documents = [("a", list(range(300, 358))), ("b", [0, *range(300, 358)])]  # <s> is token 0
    score = evaluate(Perplexity(length=30), "dense", documents, bos=True)
    assert [(p["document"], p["start"]) for p in score.predictions] == [("a", 0), ("b", 1), ("a", 29), ("b", 30)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(length=1), "length=1 is not allowed; allowed: at least 2"),
        (dict(max_pieces=0), "max_pieces=0 is not allowed; allowed: at least 1"),
        (dict(max_documents=-1), "max_documents=-1 is not allowed; allowed: at least 1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Perplexity(**settings)


def test_documents_that_are_too_short_are_an_error():
    with pytest.raises(
        ValueError,
        match=r"length=101 is not allowed; allowed: at most 100, the tokens of the longest of the 3 documents",
    ):
        evaluate(Perplexity(length=101), "dense")
