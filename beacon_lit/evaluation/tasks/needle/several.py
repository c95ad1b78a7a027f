"""Multi-needle: several facts in one text, and one question for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from beacon_lit.evaluation.metrics import rouge_l
from beacon_lit.evaluation.prompts import Prompt
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.task import Example, Record, Score, Subject, mean_score
from beacon_lit.evaluation.tasks.needle.drawn import DrawnNeedles, listed, mean
from beacon_lit.evaluation.tasks.needle.facts import Fact
from beacon_lit.evaluation.tasks.needle.grading import contains, summed_up


@dataclass(frozen=True)
class MultiNeedle(DrawnNeedles):
    """One question for all facts of a text. See `DrawnNeedles` for the settings.

    The whole answer is graded: "score" is the share of facts whose words it has, "all_found" whether that is all,
    "rouge" the mean of ROUGE-L's recalls of the needles, and with a judge "judge" its grade. In `Score.details`:
    "all_found", the other metrics, and "length_L".
    """

    max_new_tokens: int = 150

    def _questions(self, facts: Sequence[Fact]) -> list[str]:
        cities = listed([fact.about for fact in facts])
        return [f"What are the best things to do on a free afternoon in {cities}?"]

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
