"""Several facts in one text, and one question about all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from beacon_lit.evaluation.metrics import rouge_l
from beacon_lit.evaluation.prompts import Prompt
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.task import Example, Record, Score, Subject, mean, mean_score
from beacon_lit.evaluation.tasks.needle.base import SeveralNeedles
from beacon_lit.evaluation.tasks.needle.facts import Fact
from beacon_lit.evaluation.tasks.needle.grading import contains, summed_up


@dataclass(frozen=True)
class MultiNeedle(SeveralNeedles):
    """Asks one question about all facts of a text. See `SeveralNeedles` for the settings.

    The whole answer is graded: "score" is the share of facts whose words it has, "all_found" whether it has all of
    them, "rouge" the mean recall of ROUGE-L against the needles, and with a judge "judge" is a grade from 1 to 10.
    `Score.details` has "all_found", the other metrics, and "length_L".
    """

    max_new_tokens: int = 150

    def _questions(self, facts: Sequence[Fact]) -> list[str]:
        *cities, last = (fact.about for fact in facts)
        return [f"What are the best things to do on a free afternoon in {', '.join(cities)} and {last}?"]

    def request(self, subject: Subject, example: Example) -> Generate:
        """See Task."""
        template, turns = example.content
        return Generate(Prompt(turns[0], template), self.max_new_tokens)

    def grade(self, record: Record) -> Record:
        """See Task."""
        said = record["prediction"]
        found = [contains(said, answer) for answer in record["answers"]]
        return {
            "score": mean(found),
            "all_found": float(all(found)),
            "rouge": mean([rouge_l(said, needle).recall for needle in record["needles"]]),
            **self.judge.grade(record["questions"][0], " ".join(record["needles"]), said),
        }

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        score = summed_up(records, self.metric, by=("length",))
        return Score(score.value, {"all_found": mean_score(records, "all_found").value, **score.details})
