"""Sums up the costs of an evaluation: time, tokens, memory."""

from collections.abc import Mapping, Sequence

from beacon_lit.evaluation.task import Record, Results


def costs(records: Sequence[Record]) -> dict[str, float]:
    """Sum up the costs of records.

    Returns:
        "seconds", "tokens_in" (tokens read), "tokens_per_second", "cache_mib" (of the largest cache), "tokens_dropped".
    """
    seconds, tokens = (sum(record[name] for record in records) for name in ("seconds", "tokens_in"))
    largest = max((record["cache_bytes"] for record in records), default=0)
    return {
        "seconds": seconds,
        "tokens_in": tokens,
        "tokens_per_second": tokens / seconds if seconds else 0.0,
        "cache_mib": largest / 2**20,
        "tokens_dropped": sum(record.get("tokens_dropped", 0) for record in records),
    }


def by_mode(results: Results) -> Mapping[str, Sequence[Record]]:
    """Group the records of all tasks by mode."""
    modes = dict.fromkeys(mode for scores in results.values() for mode in scores)
    return {
        mode: [record for scores in results.values() if mode in scores for record in scores[mode].predictions]
        for mode in modes
    }
