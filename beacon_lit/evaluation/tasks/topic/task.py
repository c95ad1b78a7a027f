"""Topic retrieval: which of the topics of a long conversation was the first?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from matplotlib.figure import Figure

from beacon_lit.evaluation.checks import check_at_least, check_choice, check_distinct
from beacon_lit.evaluation.metrics import qa_f1
from beacon_lit.evaluation.plots import score_by_amount, titled
from beacon_lit.evaluation.prompts import AUTO, check_template, make_prompt
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.task import Example, ModeScores, Record, Score, Subject, Task, mean_score
from beacon_lit.evaluation.tasks.topic.conversations import (
    TopicConversation,
    made_up_conversations,
    read_topic_conversations,
)

_FIRST = "What is the first topic that we discussed? Say its name and nothing more."
_NUMBERED = "What is topic number {number} of those that we discussed? Say its name and nothing more."
_NEW_TOKENS = 50
_TARGETS = ("first", "random")


@dataclass(frozen=True)
class TopicRetrieval(Task):
    """Scores the share of answers that name the topic, ignoring case.

    `Score.details` has the score by number of topics ("topics_5"), and the F1 of words ("f1", "f1/topics_5").
    Source: LongEval (https://lmsys.org/blog/2023-06-29-longchat), with questions in our own words.

    Args:
        path: file of conversations (JSON, or JSON lines) with "context", "topics" and "num_topics"; None = made up.
        data_root: the folder that a leading `long-llm:` stands for.
        num_topics: numbers of topics of the conversations to ask about.
        samples: maximum number of conversations of each number of topics.
        target: the topic that is asked for: "first", or "random" for any topic by its number, from 1.
        seed: changes the random topics and the made-up conversations.
        template: "auto" (a chat if the tokenizer has a chat template), "chat" or "plain".

    Raises:
        ValueError: a setting out of range; on evaluation, a missing file, a malformed record, or no conversation with a
            wanted number of topics.
    """

    path: str | None
    data_root: str | None = None
    num_topics: Sequence[int] = (5, 10, 15, 20, 25, 30, 40, 50, 60, 70)
    samples: int = 50
    target: str = "first"
    seed: int = 0
    template: str = AUTO
    metric = "accuracy"

    def __post_init__(self) -> None:
        check_at_least(1, samples=self.samples)
        check_template(self.template)
        check_choice(_TARGETS, target=self.target)
        check_distinct(1, num_topics=self.num_topics)

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        if self.path is None:
            found = list(made_up_conversations(self.num_topics, self.samples, self.seed))
        else:
            found = read_topic_conversations(self.path, self.data_root, self.num_topics, self.samples)
        return [self._example(index, conversation) for index, conversation in enumerate(found)]

    def _example(self, index: int, conversation: TopicConversation) -> Example:
        count = len(conversation.topics)
        number = 1 if self.target == "first" else Random(f"topic/{self.seed}/{index}").randint(1, count)
        question = _FIRST if self.target == "first" else _NUMBERED.format(number=number)
        about = {
            "topics": count,
            "asked": number,
            "answer": conversation.topics[number - 1],
            "source": self.path or "made-up",
        }
        return Example(f"{count}/{index}", about, f"{conversation.context} {question}")

    def request(self, subject: Subject, example: Example) -> Generate:
        """See Task."""
        return Generate(make_prompt(subject.tokenizer, example.content, self.template), _NEW_TOKENS)

    def grade(self, record: Record) -> Record:
        """See Task."""
        said, answer = record["prediction"], record["answer"]
        return {"score": float(answer.lower() in said.lower()), "f1": qa_f1(said, answer)}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        score, f1 = (mean_score(records, name, by=("topics",)) for name in ("score", "f1"))
        by_number = {f"f1/{name}": value for name, value in f1.details.items()}
        return Score(score.value, {**score.details, "f1": f1.value, **by_number})

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task."""
        label, newest = list(runs.items())[-1]
        curves = {
            mode: {int(name[7:]): value for name, value in score.details.items() if name.startswith("topics_")}
            for mode, score in newest.items()
        }
        title = titled("Topic retrieval", label)
        return {"by_number": score_by_amount(curves, self.metric, "number of topics", title)}
