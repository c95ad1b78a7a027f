"""Every metric against values worked out by hand, and ROUGE-L against the package that published scores come from."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beacon_lit.evaluation.metrics import (
    classification,
    code_similarity,
    exact_match,
    normalized,
    normalized_chinese,
    number_share,
    paragraph_share,
    qa_f1,
    qa_f1_chinese,
    rouge_l,
    rouge_l_chinese,
    substring_match,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  cat, a dog!", "cat dog"),
        ("An anthem of theirs", "anthem of theirs"),  # articles are whole words
        ("U.S. state-of-the-art", "us stateoftheart"),  # punctuation goes first
        ("the", ""),
    ],
)
def test_normalized(text, expected):
    assert normalized(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("北京\uff0c 是 首都。", "北京是首都"),  # a full-width comma
        ("A股\uff08上证\uff09!", "a股上证"),  # full-width brackets
        ("“引号”…—》", "引号"),
        ("《书》", "《书"),  # as the official scorer has it
    ],
)
def test_normalized_chinese(text, expected):
    assert normalized_chinese(text) == expected


@pytest.mark.parametrize(
    ("prediction", "reference", "f1"),
    [
        ("A cat sat!", "the cat sat down", 0.8),  # 2 shared of 2 and 3: 2 * 2 / 5
        ("b b c", "b c c", 2 / 3),  # one b and one c
        ("Paris", "paris.", 1),
        ("London", "Paris", 0),
        ("", "Paris", 0),
        ("the", "a", 0),  # nothing is left of either
    ],
)
def test_qa_f1(prediction, reference, f1):
    assert qa_f1(prediction, reference) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "reference", "f1"),
    [
        ("我爱北京", "北京", 0.5),  # 我 / 爱 / 北京 against 北京: 2 * 1 / 4
        ("北京。", "北京", 1),
        ("上海", "北京", 0),
        ("", "北京", 0),
    ],
)
def test_qa_f1_chinese(prediction, reference, f1):
    assert qa_f1_chinese(prediction, reference) == pytest.approx(f1)


def test_matches():
    assert exact_match("The Paris.", "paris") == 1 and exact_match("in Paris", "Paris") == 0
    assert substring_match("It is in Paris, I think", "the Paris") == 1 and substring_match("It is", "Paris") == 0


@pytest.mark.parametrize(
    ("prediction", "reference", "precision", "recall"),
    [
        # Different words: the cat sat on mat, the cat lay on mat; in order: the cat on mat.
        ("the cat sat on the mat", "the cat lay on the mat", 4 / 5, 4 / 5),
        ("b a", "a b", 1 / 2, 1 / 2),  # order counts
        ("a b f. a c e", "a b c d e", 4 / 5, 4 / 5),  # a b of one sentence and a c e of the other
        ("a b", "a b c d", 1, 1 / 2),
        ("The cat", "the cat", 1 / 2, 1 / 2),  # case counts
        ("x", "a", 0, 0),
        ("", "a", 0, 0),
        ("...", "a", 0, 0),
    ],
)
def test_rouge_l(prediction, reference, precision, recall):
    rouge = rouge_l(prediction, reference)
    assert (rouge.precision, rouge.recall) == pytest.approx((precision, recall))
    both = precision + recall
    assert rouge.f == pytest.approx(2 * precision * recall / both if both else 0, abs=1e-7)


TEXTS = st.lists(st.sampled_from(["a", "b", "c", "d", "The", "a.", "b.", ".", "..", "\n"]), max_size=20).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
def test_rouge_l_agrees_with_the_package_rouge(prediction, reference):
    from rouge import Rouge

    try:
        expected = Rouge(metrics=["rouge-l"]).get_scores([prediction], [reference], avg=True)["rouge-l"]
    except ValueError:  # it takes no empty texts; LongBench scores them 0
        expected = {"p": 0, "r": 0, "f": 0}
    assert rouge_l(prediction, reference) == pytest.approx((expected["p"], expected["r"], expected["f"]), abs=1e-12)


def test_rouge_l_of_a_sentence_beyond_the_recursion_limit():
    words = [f"w{i}" for i in range(sys.getrecursionlimit() + 100)]
    assert rouge_l(" ".join(words), " ".join(words[::2])).recall == 1


def test_rouge_l_chinese():
    # 我 / 爱 / 北京 against 北京
    assert rouge_l_chinese("我爱北京", "北京") == pytest.approx((1 / 3, 1, 0.5), abs=1e-7)
    assert rouge_l_chinese("", "北京").f == 0


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("Water Sports", "Water Sports", 1),  # that has Sports in it, too
        ("Sports", "Water Sports", 0),
        ("Sports or Politics", "Sports", 1 / 2),
        ("Politics", "Sports", 0),
        ("sport", "Sports", 0),
        ("", "Sports", 0),
    ],
)
def test_classification(prediction, reference, score):
    assert classification(prediction, reference, ["Sports", "Water Sports", "Politics"]) == score


def test_classification_leaves_out_every_part_of_the_reference():
    """The official scorer, which shortens a list while it walks through it, gives 1/2."""
    assert classification("abc", "abc", ["a", "ab", "abc"]) == 1


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("\n\n# so\n```python\nreturn x\nreturn y", "return x", 1),
        ("abce", "abcd", 0.75),  # 2 * 3 / 8
        ("return y", "return x", 0.88),  # 14 / 16, in whole per cent
        ("// nothing else", "return x", 0),
        ("", "return x", 0),
    ],
)
def test_code_similarity(prediction, reference, score):
    assert code_similarity(prediction, reference) == score


def test_numbers():
    assert number_share("5 or 3, then 5", "5") == pytest.approx(2 / 3)
    assert number_share("15", "5") == 0 and number_share("five", "5") == 0 and number_share("", "5") == 0
    assert paragraph_share("Paragraph 12", "Paragraph 12") == 1 and paragraph_share("12 or 13", "Paragraph 12") == 0.5
    assert paragraph_share("第7段", "段落7") == 1 and paragraph_share("Paragraph 1", "Paragraph 12") == 0
    with pytest.raises(ValueError, match="the answer '12' must name a paragraph"):
        paragraph_share("12", "12")


@pytest.mark.parametrize(
    ("module", "metric"), [("jieba", qa_f1_chinese), ("jieba", rouge_l_chinese), ("rapidfuzz.fuzz", code_similarity)]
)
def test_a_missing_package_is_named_with_the_extra_that_has_it(module, metric, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"{module} is missing: pip install 'beacon_lit\[evaluation\]'"):
        metric("a", "b")
