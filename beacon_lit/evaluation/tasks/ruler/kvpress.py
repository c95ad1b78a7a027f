"""RULER's samples as the leaderboard of kvpress asks them: the context first, the question behind it."""

from collections.abc import Iterator
from dataclasses import dataclass

from beacon_lit.data.encoding import token_ids
from beacon_lit.evaluation.prompts import AUTO, Prompt
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.rows import Row, read_rows
from beacon_lit.evaluation.task import Example, Subject
from beacon_lit.evaluation.tasks.ruler.generated import GeneratedRuler
from beacon_lit.evaluation.turn_markup import TurnMarkup

_FIELDS = ("context", "question", "answer_prefix", "answer", "task", "max_new_tokens")
_FETCH = (
    "Fetch https://huggingface.co/datasets/simonjegou/ruler, or set `path` to hub:simonjegou/ruler/4096/FILE.parquet"
)


@dataclass(frozen=True)
class RulerKvpress(GeneratedRuler):
    """Asks the samples of kvpress's leaderboard (https://huggingface.co/spaces/nvidia/kvpress-leaderboard).

    As on the leaderboard, context and question are tokenised apart, and answers are graded by its rules. Baselines
    compress the context alone. The score is the mean over subsets; `Score.details` has each subset.

    Args:
        path: a Parquet file with the columns context, question, answer_prefix, answer, task and max_new_tokens.

    See `GeneratedRuler` for the other settings. A chat template is asked not to think, as in kvpress.
    """

    template: str = AUTO
    control = ""

    def rows(self) -> Iterator[tuple[str, str, Row]]:
        """See GeneratedRuler."""
        for where, row in read_rows(self.path, self.data_root, _FIELDS, _FETCH):
            yield where, row["task"], {**row, "answers": row["answer"]}

    def request(self, subject: Subject, example: Example) -> Generate:
        """See Task."""
        row = example.content
        markup = TurnMarkup.of(subject.tokenizer, self.template, stem="\n", options={"enable_thinking": False})
        question = token_ids(subject.tokenizer, f"{row['question']}{markup.ask}{row['answer_prefix']}")
        ids = [*markup.opening(row["context"]), *question]
        return Generate(Prompt(ids, markup.template, tail=len(question)), row["max_new_tokens"])
