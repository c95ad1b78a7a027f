"""Multi-turn needles: several facts in one text, and a question per turn over one cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from beacon_lit.evaluation.metrics import rouge_l
from beacon_lit.evaluation.prompts import PLAIN
from beacon_lit.evaluation.requests import Converse
from beacon_lit.evaluation.task import Example, Record, Score, Subject
from beacon_lit.evaluation.tasks.needle.drawn import DrawnNeedles, mean
from beacon_lit.evaluation.tasks.needle.facts import Fact
from beacon_lit.evaluation.tasks.needle.grading import METRICS, contains, first_line, summed_up


@dataclass(frozen=True)
class MultiTurnNeedle(DrawnNeedles):
    """One question per turn; the cache goes on, so that the text is read once. See `DrawnNeedles` for the settings.

    After the paper's table 2 (arXiv 2401.03462), which has no published script: three facts, a question each, 20
    repetitions, the grade and the seconds of one, two and three turns. Every mode keeps its cache, the dense model too.
    In plain text an answer ends with its line. Conversations are held one by one, whatever the batch size.

    A record's "turns" have what `Reader.converse` gives, and the grades of `Needle`; its own grades are their means.
    `Score.details`: "turn_N/score", "turn_N/rouge", "turn_N/judge", of turn N alone; "turn_N/seconds", from the start
    to that turn's last token, reading and generating, the mean of conversations; the other metrics, and "length_L".
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
        turns = [{**turn, **self._grade(turn, *fact)} for turn, *fact in asked]
        means = {name: _mean(turns, name) for name in METRICS.values() if name in turns[0]}
        return {"turns": turns, **means}

    def _grade(self, turn: Record, question: str, needle: str, answer: str) -> Record:
        said = first_line(turn["prediction"])
        grades = {"score": float(contains(said, answer)), "rouge": rouge_l(said, needle).recall}
        return {**grades, **self.judge.grade(question, needle, said)}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        turns = [{**turn, "length": record["length"]} for record in records for turn in record["turns"]]
        score = summed_up(turns, self.metric, by=("length",))
        return Score(score.value, {**score.details, **dict(_by_turn([record["turns"] for record in records]))})


def _by_turn(conversations: Sequence[Sequence[Record]]) -> Iterator[tuple[str, float]]:
    for i, turns in enumerate(zip(*conversations, strict=True)):
        for name in METRICS.values():
            value = _mean(turns, name) if name in turns[0] else None
            if value is not None:
                yield f"turn_{i + 1}/{name}", value
        yield f"turn_{i + 1}/seconds", mean([sum(turn["seconds"] for turn in held[: i + 1]) for held in conversations])


def _mean(turns: Sequence[Any], name: str) -> float | None:
    """The mean of those turns that were graded; None of none."""
    values = [turn[name] for turn in turns if turn[name] is not None]
    return mean(values) if values else None
