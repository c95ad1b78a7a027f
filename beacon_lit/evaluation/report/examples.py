"""Chooses examples to show with the answers of all modes: the first, and those on which modes differ most."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beacon_lit.evaluation.task import ModeScores, Record, Task

FIRST, DIFFERENT = 3, 5  # maximum number of examples of each kind
LONGEST = 400  # characters of a text that is shown

# Fields with columns of their own, or in the table of facts.
_ELSEWHERE = {"task", "mode", "id", "prediction", "ended_by", "score", "template", "prompts", "ratio"}
_ELSEWHERE |= {"tokens_in", "tokens_dropped", "tokens_out", "cache_bytes", "seconds"}


@dataclass(frozen=True)
class ShownAnswer:
    """The answer of one mode; `more` has the other fields in which modes differ."""

    mode: str
    score: float | None
    text: str | None
    ended_by: str | None
    more: Mapping[str, str]


@dataclass(frozen=True)
class ShownExample:
    """An example; `about` has the fields that are equal in all modes."""

    id: str
    about: Mapping[str, str]
    answers: tuple[ShownAnswer, ...]


def shown_examples(scores: ModeScores, task: Task) -> list[ShownExample]:
    """Choose the first examples, then those on which scores of modes differ most, and of equal ones the worst."""
    groups: dict[str, dict[str, Record]] = {}
    for mode, score in scores.items():
        for record in score.predictions:
            groups.setdefault(record["id"], {})[mode] = record

    def difference(id: str) -> tuple[float, float]:
        values = [value for record in groups[id].values() if (value := _score(record, task)) is not None]
        worst = sum(values) * (1 if task.higher_is_better else -1)
        return -(max(values, default=0) - min(values, default=0)), worst

    ids = list(groups)
    chosen = [*ids[:FIRST], *sorted(ids[FIRST:], key=difference)[:DIFFERENT]]
    return [_shown(id, groups[id], task) for id in chosen]


def _shown(id: str, records: Mapping[str, Record], task: Task) -> ShownExample:
    fields = dict.fromkeys(name for record in records.values() for name in record)
    others = [name for name in fields if name not in _ELSEWHERE and name != task.metric]
    some = next(iter(records.values()))
    alike = [name for name in others if all(record.get(name) == some.get(name) for record in records.values())]
    answers = tuple(
        ShownAnswer(
            mode,
            _score(record, task),
            shortened(record["prediction"]) if "prediction" in record else None,
            record.get("ended_by"),
            {name: shortened(record[name]) for name in others if name not in alike and name in record},
        )
        for mode, record in records.items()
    )
    return ShownExample(id, {name: shortened(some[name]) for name in alike}, answers)


def _score(record: Record, task: Task) -> float | None:
    return record.get("score", record.get(task.metric))


def shortened(value: Any) -> str:
    """Write a value as text; a long text loses its middle."""
    text = value if isinstance(value, str) else json.dumps(_rounded(value), ensure_ascii=False)
    if len(text) <= LONGEST:
        return text
    tail = LONGEST // 4
    return f"{text[: LONGEST - tail]} […{len(text) - LONGEST:,} characters…] {text[-tail:]}"


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, 3) if isinstance(value, float) else value
