"""Answers to the first questions of conversations, to read or to compare with reference answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from beacon_lit.evaluation.checks import check_at_least, check_limits
from beacon_lit.evaluation.conversations import read_conversations
from beacon_lit.evaluation.metrics import rouge_l
from beacon_lit.evaluation.prompts import AUTO, check_template, make_prompt
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.task import Example, Record, Score, Subject, Task, mean, mean_score


@dataclass(frozen=True)
class Generation(Task):
    """Scores greedy answers by ROUGE-L (F1 as in LongBench) against the assistant's first answer in the file.

    With `compare=false` the score is the mean length of the answers in tokens. A prompt is a conversation up to its
    first question, with the system message if there is one.

    `Score.details["tokens_out"]` is the mean length of the answers, `Score.details["ended"]` the share that ended
    before `max_new_tokens`.

    Args:
        path: JSON records with `conversations`: see `conversations.read_conversations`.
        data_root: the folder that `long-llm:` stands for.
        max_examples: maximum number of conversations; None = all.
        compare: whether to compare with the answers in the file, of which each conversation then needs one.
        max_new_tokens: maximum number of tokens of an answer.
        template: "auto", "chat" or "plain"; "plain" does not allow a system message.

    Raises:
        ValueError: a setting out of range; on evaluation, a missing file, a malformed record, or no answer to compare.
    """

    path: str
    data_root: str | None = None
    max_examples: int | None = None
    compare: bool = True
    max_new_tokens: int = 128
    template: str = AUTO

    def __post_init__(self) -> None:
        check_limits(max_examples=self.max_examples)
        check_template(self.template)
        check_at_least(1, max_new_tokens=self.max_new_tokens)

    @property
    def metric(self) -> str:  # type: ignore[override]
        """See Task."""
        return "ROUGE-L" if self.compare else "answer length (tokens)"

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        examples = []
        for number, document in enumerate(read_conversations(self.path, self.data_root, self.max_examples)):
            messages = document["conversations"]
            asked = 1 + [message["role"] for message in messages].index("user")
            about = {"document": document["id"]}
            if self.compare and asked == len(messages):
                raise ValueError(
                    f"path={self.path!r}: record {document['id']} has no answer, which compare=true needs; allowed: "
                    "compare=false"
                )
            if self.compare:
                about["answer"] = messages[asked]["content"]
            content = messages[:asked] if asked > 1 else messages[0]["content"]
            examples.append(Example(str(number), about, content))
        return examples

    def request(self, subject: Subject, example: Example) -> Generate:
        """See Task."""
        return Generate(make_prompt(subject.tokenizer, example.content, self.template), self.max_new_tokens)

    def grade(self, record: Record) -> Record:
        """See Task."""
        if not self.compare:
            return {"score": float(record["tokens_out"])}
        return {"score": rouge_l(record["prediction"], record["answer"]).f}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        ended = mean(record["ended_by"] != "length" for record in records)
        return Score(mean_score(records).value, {"tokens_out": mean_score(records, "tokens_out").value, "ended": ended})
