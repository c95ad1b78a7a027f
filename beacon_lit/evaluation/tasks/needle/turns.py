"""Several facts in one text, and a question per turn over one cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from beacon_lit.evaluation.prompts import PLAIN
from beacon_lit.evaluation.requests import Converse
from beacon_lit.evaluation.task import Example, Record, Score, Subject, mean
from beacon_lit.evaluation.tasks.needle.base import SeveralNeedles
from beacon_lit.evaluation.tasks.needle.facts import Fact
from beacon_lit.evaluation.tasks.needle.grading import METRICS, summed_up


@dataclass(frozen=True)
class MultiTurnNeedle(SeveralNeedles):
    """Asks one question per turn over one cache, so that the text is read once. See `SeveralNeedles` for the settings.

    This follows the paper's table 2 (arXiv 2401.03462), which has no published script: three facts, a question about
    each, 20 repetitions, and the grade and the seconds of one, two and three turns. Every mode keeps its cache, also
    the dense model. In plain text an answer ends with its line. Conversations are held one by one, whatever the batch
    size.

    A record's "turns" have the answers of `Converse` with the grades of `Needle`; its own grades are their means.
    `Score.details` has "turn_N/score", "turn_N/rouge" and "turn_N/judge" of turn N alone; "turn_N/seconds", the mean
    time from the start to the last token of that turn, reading and generating; the other metrics, and "length_L".
    """

    def _questions(self, facts: Sequence[Fact]) -> list[str]:
        return [fact.question for fact in facts]

    def request(self, subject: Subject, example: Example) -> Converse:
        """See Task."""
        template, turns = example.content
        return Converse(turns, self.max_new_tokens, template, stop=("\n",) if template == PLAIN else ())

    def grade(self, record: Record) -> Record:
        """See Task."""
        asked = zip(record["turns"], record["questions"], record["needles"], record["answers"], strict=True)
        turns = [{**turn, **self._grade(turn["prediction"], *fact)} for turn, *fact in asked]
        means = {name: _mean(turns, name) for name in METRICS.values() if name in turns[0]}
        return {"turns": turns, **means}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        turns = [{**turn, "length": record["length"]} for record in records for turn in record["turns"]]
        score = summed_up(turns, self.metric, by=("length",))
        return Score(score.value, {**score.details, **dict(_by_turn([record["turns"] for record in records]))})


def _by_turn(conversations: Sequence[Sequence[Record]]) -> Iterator[tuple[str, float]]:
    """Yield the details of each turn, by name."""
    for i, turns in enumerate(zip(*conversations, strict=True)):
        for name in METRICS.values():
            value = _mean(turns, name) if name in turns[0] else None
            if value is not None:
                yield f"turn_{i + 1}/{name}", value
        yield f"turn_{i + 1}/seconds", mean([sum(turn["seconds"] for turn in held[: i + 1]) for held in conversations])


def _mean(turns: Sequence[Any], name: str) -> float | None:
    """Average a grade over the turns that have it; None if no turn has it."""
    values = [turn[name] for turn in turns if turn[name] is not None]
    return mean(values) if values else None
