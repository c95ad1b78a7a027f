"""Sums up the records of LongBench v1 to the numbers of its tables."""

from collections.abc import Sequence

from beacon_lit.evaluation.task import Record, Score, mean
from beacon_lit.evaluation.tasks.longbench.subsets import CATEGORIES, CHINESE, CODE, SUBSETS

LENGTHS = {"0-4k": range(4000), "4-8k": range(4000, 8000), "8k+": range(8000, 2**62)}  # words, or Chinese characters


def summary(records: Sequence[Record], by_length: bool) -> Score:
    """Score all records, with the details that `LongBench` lists."""
    subsets = _by_subset(records)
    members = {
        category: [value for name, value in subsets.items() if SUBSETS[name].category == category]
        for category in CATEGORIES
    }
    categories = {category: mean(values) for category, values in members.items() if values}
    details = {**subsets, **{f"category/{name}": value for name, value in categories.items()}}
    for language, is_chinese in (("en", False), ("zh", True)):
        own = [name for name in categories if name != CODE and name.startswith(CHINESE) == is_chinese]
        if own:
            details[f"average/{language}"] = mean(categories[name] for name in (*own, CODE) if name in categories)
    if by_length:
        details |= _by_length(records)
    return Score(mean(subsets.values()), details)


def _by_length(records: Sequence[Record]) -> dict[str, float]:
    details = {}
    for name, words in LENGTHS.items():
        subsets = _by_subset([record for record in records if record["length"] in words])
        if subsets:
            details[f"length/{name}"] = mean(subsets.values())
        details |= {f"{subset}/{name}": value for subset, value in subsets.items()}
    return details


def _by_subset(records: Sequence[Record]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for record in records:
        groups.setdefault(record["subset"], []).append(record["score"])
    return {name: mean(scores) for name, scores in groups.items()}
