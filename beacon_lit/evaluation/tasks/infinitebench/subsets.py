"""The 12 subsets of InfiniteBench: maximum answer, grading, and reference answers of a row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beacon_lit.evaluation.tasks.infinitebench import grading
from beacon_lit.evaluation.tasks.infinitebench.grading import Grade

PAPER = ("longbook_qa_eng", "longbook_sum_eng")  # what the code of the paper on beacons asks by default


def _answers(row: Mapping[str, Any]) -> list[str]:
    answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"answer must be a string or a list of some, not {row['answer']!r}")
    return answers


def _numbers(row: Mapping[str, Any]) -> list[float]:
    answer = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    answers = answer[0] if answer and isinstance(answer[0], list) else answer
    try:
        numbers = [float(number) for number in answers]
    except (TypeError, ValueError):
        numbers = []
    if not numbers:
        raise ValueError(f"answer must be a number or a list of some, not {row['answer']!r}")
    return [int(number) if number.is_integer() else number for number in numbers]


def _option(row: Mapping[str, Any]) -> list[str]:
    """Return the text of the right option, and its letter. A row has one of them or both; options may be equal."""
    options, answers = row["options"], _answers(row)
    if not isinstance(options, list) or len(options) != 4 or not all(isinstance(option, str) for option in options):
        raise ValueError(f"options must be a list of four strings, not {options!r}")
    if len(answers) == 1 and answers[0] in options:
        answers = [answers[0], "ABCD"[options.index(answers[0])]]
    elif len(answers) == 1 and answers[0] in tuple("ABCD"):
        answers = [options["ABCD".index(answers[0])], answers[0]]
    if len(answers) != 2 or answers[0] not in options or answers[1] not in tuple("ABCD"):
        raise ValueError(f"answer must be one of the options, its letter, or both, not {row['answer']!r}")
    return answers


@dataclass(frozen=True)
class InfiniteBenchSubset:
    """One data set of InfiniteBench.

    Attributes:
        new_tokens: maximum number of tokens of an answer.
        grade: (prediction, labels) -> 0..1.
        labels: row -> reference answers; raises ValueError for a malformed row.
    """

    new_tokens: int
    grade: Grade
    labels: Callable[[Mapping[str, Any]], Sequence[Any]] = _answers


SUBSETS = {
    "passkey": InfiniteBenchSubset(6, grading.first_digits),
    "number_string": InfiniteBenchSubset(12, grading.first_digits),
    "kv_retrieval": InfiniteBenchSubset(50, grading.word),
    "longbook_sum_eng": InfiniteBenchSubset(1200, grading.summary),
    "longbook_choice_eng": InfiniteBenchSubset(40, grading.choice, _option),
    "longbook_qa_eng": InfiniteBenchSubset(40, grading.best_f1),
    "longbook_qa_chn": InfiniteBenchSubset(40, grading.best_f1_of_characters),
    "longdialogue_qa_eng": InfiniteBenchSubset(40, grading.name),
    "math_find": InfiniteBenchSubset(3, grading.first_number, _numbers),
    "math_calc": InfiniteBenchSubset(30_000, grading.right_values, _numbers),
    "code_run": InfiniteBenchSubset(5, grading.last_number, _numbers),
    "code_debug": InfiniteBenchSubset(5, grading.option, _option),
}


def choose_subsets(names: Sequence[str]) -> list[str]:
    """Choose subsets by name, or by the groups "all" and "paper", in the benchmark's order.

    Raises:
        ValueError: no name, or an unknown one.
    """
    groups = {"all": tuple(SUBSETS), "paper": PAPER, **{name: (name,) for name in SUBSETS}}
    if not names or any(name not in groups for name in names):
        raise ValueError(f"subsets={list(names)} is not allowed; allowed: {', '.join(groups)}")
    chosen = {subset for name in names for subset in groups[name]}
    return [name for name in SUBSETS if name in chosen]
