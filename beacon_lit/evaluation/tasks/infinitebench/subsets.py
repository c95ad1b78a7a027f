"""The 12 subsets: how long an answer may be, what is right, and what a record's answer stands for."""

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
    """The text of the option that is right, and its letter; records have one of both, or both."""
    options, answer = row["options"], _answers(row)[0]
    if not isinstance(options, list) or len(options) != 4 or not all(isinstance(option, str) for option in options):
        raise ValueError(f"options must be a list of four strings, not {options!r}")
    if answer in options:
        return [answer, "ABCD"[options.index(answer)]]
    if answer not in tuple("ABCD"):
        raise ValueError(f"answer must be one of the options or its letter, not {answer!r}")
    return [options["ABCD".index(answer)], answer]


@dataclass(frozen=True)
class Subset:
    """new_tokens: the most of an answer
    grade: (prediction, labels) -> 0..1
    labels: what a record's answer stands for; raises ValueError where it is of the wrong type
    """

    new_tokens: int
    grade: Grade
    labels: Callable[[Mapping[str, Any]], Sequence[Any]] = _answers


SUBSETS = {
    "passkey": Subset(6, grading.first_digits),
    "number_string": Subset(12, grading.first_digits),
    "kv_retrieval": Subset(50, grading.word),
    "longbook_sum_eng": Subset(1200, grading.summary),
    "longbook_choice_eng": Subset(40, grading.choice, _option),
    "longbook_qa_eng": Subset(40, grading.best_f1),
    "longbook_qa_chn": Subset(40, grading.best_f1_of_characters),
    "longdialogue_qa_eng": Subset(40, grading.name),
    "math_find": Subset(3, grading.first_number, _numbers),
    "math_calc": Subset(30_000, grading.right_values, _numbers),
    "code_run": Subset(5, grading.last_number, _numbers),
    "code_debug": Subset(5, grading.option, _option),
}


def choose_subsets(names: Sequence[str]) -> list[str]:
    """The subsets that names stand for, in the benchmark's order; "all" and "paper" are names of several.

    Raises:
        ValueError: no name, or one that is unknown.
    """
    groups = {"all": tuple(SUBSETS), "paper": PAPER, **{name: (name,) for name in SUBSETS}}
    if not names or any(name not in groups for name in names):
        raise ValueError(f"subsets: got {list(names)}; allowed: {', '.join(groups)}")
    chosen = {subset for name in names for subset in groups[name]}
    return [name for name in SUBSETS if name in chosen]
