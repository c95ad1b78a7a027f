"""Grades of answers about needles, and their means."""

import re
from collections.abc import Sequence

from beacon_lit.evaluation.checks import check_choice
from beacon_lit.evaluation.task import Record, Score, mean_score

METRICS = {"accuracy": "score", "rouge": "rouge", "judge": "judge"}  # setting -> field of a record


def check_metric(metric: str, judged: bool) -> None:
    """Raise a ValueError unless the metric is one of `METRICS`; "judge" needs a judge."""
    check_choice(tuple(METRICS), metric=metric)
    if metric == "judge" and not judged:
        raise ValueError("metric=judge is not allowed without judge.url; allowed: accuracy, rouge")


def first_line(prediction: str) -> str:
    """Return the first line that is not empty: what is graded if one thing is asked."""
    return prediction.lstrip("\n").partition("\n")[0]


def contains(text: str, answer: str) -> bool:
    """Whether a text has the words of an answer as whole words, ignoring case and kinds of white space."""
    said, wanted = (" ".join(words.lower().split()) for words in (text, answer))
    # Latin letters and digits alone: a script without spaces does not mark the ends of words.
    return bool(wanted) and re.search(f"(?<![a-z0-9]){re.escape(wanted)}(?![a-z0-9])", said) is not None


def summed_up(records: Sequence[Record], metric: str, by: Sequence[str]) -> Score:
    """Average a metric over all records and over groups, with the means of the other metrics as details.

    Args:
        records: at least one.
        metric: one of `METRICS`.
        by: the fields that make the groups: see `mean_score`.

    Returns:
        The score. Records without a judge's grade are left out of its mean and counted as "judge_failed"; the mean is
        NaN if there is no grade at all.
    """
    details: dict[str, float] = {}
    found = {}
    for name, field in METRICS.items():
        if field not in records[0]:
            continue
        graded = [record for record in records if record[field] is not None]
        found[name] = mean_score(graded, field, by) if graded else Score(float("nan"))
        if name != metric:
            details[name] = found[name].value
        if name == "judge":
            details["judge_failed"] = len(records) - len(graded)
    return Score(found[metric].value, {**details, **found[metric].details})
