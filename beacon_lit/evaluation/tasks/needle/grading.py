"""Grades of answers about needles, and what a task makes of them."""

import re
from collections.abc import Sequence

from beacon_lit.evaluation.task import Record, Score, mean_score

METRICS = {"accuracy": "score", "rouge": "rouge", "judge": "judge"}  # the setting -> the field of a record


def check_metric(metric: str, judged: bool) -> None:
    """ValueError unless it is one of "accuracy", "rouge" and "judge", the last with a judge."""
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r} is not allowed; allowed: {', '.join(METRICS)}")
    if metric == "judge" and not judged:
        raise ValueError("metric=judge is not allowed without judge.url; allowed: accuracy, rouge")


def check_cells(lengths: Sequence[int], samples: int, max_new_tokens: int) -> None:
    """ValueError for no lengths, one twice or below 1, or numbers below 1."""
    if not lengths or len(set(lengths)) != len(lengths) or min(lengths) < 1:
        raise ValueError(f"lengths: got {list(lengths)}; needs at least one, each at least 1 and only once")
    for name, value in (("samples", samples), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"{name}: got {value}; must be at least 1")


def check_depths(depths: Sequence[float]) -> None:
    """ValueError for no depths, one twice or outside 0..100."""
    if not depths or len(set(depths)) != len(depths) or not all(0 <= depth <= 100 for depth in depths):
        raise ValueError(f"depths: got {list(depths)}; needs at least one, each between 0 and 100 and only once")


def first_line(prediction: str) -> str:
    """What is graded where one thing is asked: the first line that is not empty."""
    return prediction.lstrip("\n").partition("\n")[0]


def contains(text: str, answer: str) -> bool:
    """Whether a text has these words, whatever their case and the white space between; no part of a longer word."""
    said, wanted = (" ".join(words.lower().split()) for words in (text, answer))
    # Latin letters and digits alone: a script without blanks has no ends of words.
    return bool(wanted) and re.search(f"(?<![a-z0-9]){re.escape(wanted)}(?![a-z0-9])", said) is not None


def summed_up(records: Sequence[Record], metric: str, by: Sequence[str]) -> Score:
    """The mean of a metric, of its groups (see `mean_score`), and of the other metrics as details. Records that a
    judge could not grade are left out of its mean and counted as "judge_failed"; if that is all, it is nan."""
    details: dict[str, float] = {}
    found = {}
    for name, field in METRICS.items():
        if field not in records[0]:
            continue
        there = [record for record in records if record[field] is not None]
        found[name] = mean_score(there, field, by) if there else Score(float("nan"))
        if name != metric:
            details[name] = found[name].value
        if name == "judge":
            details["judge_failed"] = len(records) - len(there)
    return Score(found[metric].value, {**details, **found[metric].details})
