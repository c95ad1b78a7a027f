"""Grades of answers by the rules of the benchmark's scorer, without its mistakes.

They differ from that scorer (OpenBMB/InfiniteBench, src/compute_scores.py) where it does not recognise a right answer:
lists of answers, names of several words, the letter of an option with nothing behind it, and a decimal number instead
of an integer, which is an error there.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from beacon_lit.evaluation.metrics import normalized_chinese, qa_f1, rouge_l, token_f1

Labels = Sequence[Any]
Grade = Callable[[str, Labels], float]

_MARKS = str.maketrans(dict.fromkeys("\n:\"'.,?!{}", " "))
_ANSWER_MARKS = str.maketrans(dict.fromkeys("\n\"'.,?!{}", " "))
_CODE_MARKS = str.maketrans(dict.fromkeys("\n.`'\":", " "))


def first_digits(prediction: str, labels: Labels) -> float:
    """Whether the first run of digits is the answer."""
    found = re.search(r"[0-9]+", prediction)
    return float(bool(found) and found[0] == labels[0])  # type: ignore[index]


def word(prediction: str, labels: Labels) -> float:
    """Whether the answer is among the words."""
    return float(labels[0] in prediction.translate(_MARKS).split())


def name(prediction: str, labels: Labels) -> float:
    """Whether the name occurs, ignoring case."""
    said, wanted = (" ".join(text.translate(_MARKS).upper().split()) for text in (prediction, labels[0]))
    return float(f" {wanted} " in f" {said} ")


def best_f1(prediction: str, labels: Labels) -> float:
    """Return the F1 of words with the best of the answers."""
    return max(qa_f1(prediction, label) for label in labels)


def best_f1_of_characters(prediction: str, labels: Labels) -> float:
    """Return the F1 of characters with the best of the answers, without punctuation and white space."""
    return max(token_f1(normalized_chinese(prediction), normalized_chinese(label)) for label in labels)


def summary(prediction: str, labels: Labels) -> float:
    """Return the F1 of ROUGE-L with the best of the answers, as the paper on beacons reports it.

    The benchmark's own scorer uses rougeLsum of rouge-score.
    """
    return max(rouge_l(prediction, label).f for label in labels)


def choice(prediction: str, labels: Labels) -> float:
    """Whether the right option is chosen, by its text or its letter.

    What counts is the first letter, the whole answer, the words after "answer is" and the like, or else the first word
    that is one of the letters.
    """
    said = prediction.strip()
    if said[:1] in tuple("ABCD"):
        return float(said[0] in labels)
    if said in labels:
        return 1.0
    said = " ".join(said.translate(_ANSWER_MARKS).split())
    for opening in ("answer is:", "answer:", "answer is", "option is"):
        if opening in said:
            return float(said.partition(opening)[2].lstrip().startswith(tuple(labels)))
    return float(next((word for word in said.split() if word in tuple("ABCD")), "") in labels)


def option(prediction: str, labels: Labels) -> float:
    """Whether the function or its letter is named, at the start or after "answer is:" and the like."""
    said = prediction.strip()
    text, letter = labels
    if said == letter or said[:2] in (f"{letter}.", f"{letter}:"):
        return 1.0
    said = re.sub(r"[\s`'\"*-]|[Oo]ption", " ", said)
    said = " ".join(said.split())
    for opening in ("answer is:", "is:", "answer:"):
        if opening in said:
            return float(said.partition(opening)[2].lstrip().startswith((letter, text)))
    return 0.0


def last_number(prediction: str, labels: Labels) -> float:
    """Whether the last word is the number."""
    words = prediction.translate(_CODE_MARKS).split()
    return float(bool(words) and re.fullmatch(r"[+-]?\d+", words[-1]) is not None and int(words[-1]) == labels[0])


def first_number(prediction: str, labels: Labels) -> float:
    """Whether the first number, integer or decimal, is the answer."""
    found = re.search(r"\d+\.\d+|\d+", prediction)
    return float(bool(found) and float(found[0]) == labels[0])  # type: ignore[index]


def right_values(prediction: str, labels: Labels) -> float:
    """Return the share of values that are right before the first wrong one."""
    values = [digits.lstrip("0") or "0" for digits in re.findall(r"[0-9]+", prediction)]
    right = 0
    for value, label in zip(values, labels, strict=False):
        if value != str(label):  # as text, since Python refuses to parse the huge numbers that a model may write
            break
        right += 1
    return right / len(labels)
