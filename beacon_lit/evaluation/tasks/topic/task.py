"""Topic retrieval: which of many topics of a long conversation was the first?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from matplotlib.figure import Figure

from beacon_lit.data.sample import check_int
from beacon_lit.evaluation.metrics import qa_f1
from beacon_lit.evaluation.plots import score_by_amount
from beacon_lit.evaluation.prompts import AUTO, check_template, make_prompt
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.task import Example, ModeScores, Record, Score, Subject, Task, mean_score
from beacon_lit.evaluation.tasks.topic.conversations import Conversation, made_up_conversations, read_conversations

_FIRST = "What is the first topic that we discussed? Say its name and nothing more."
_NUMBERED = "What is topic number {number} of those that we discussed? Say its name and nothing more."
_NEW_TOKENS = 50
_TARGETS = ("first", "random")


@dataclass(frozen=True)
class TopicRetrieval(Task):
    """Share of answers in which the topic is named, in capitals or not.

    `Score.details` has the score by number of topics ("topics_5") and, of the words, "f1" and "f1/topics_5".
    Source: LongEval (https://lmsys.org/blog/2023-06-29-longchat), with questions in our own words.

    Args:
        path: file of conversations (JSON, or JSON lines) of "context", "topics" and "num_topics"; None = made up.
        data_root: the folder that a leading `long-llm:` stands for.
        num_topics: how many topics conversations have, those that are asked about.
        samples: of each number of topics, at most as many as the file has.
        target: the topic that is asked for: "first", or "random" for any of them by its number, from 1.
        seed: decides on random topics, and on conversations that are made up.
        template: "auto" (chat where the tokenizer has a template), "chat" or "plain".

    Raises:
        ValueError: a bad setting; on evaluation, a file that is missing, a bad record, or none of a number of topics.
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
        check_int("samples", self.samples, 1)
        check_template(self.template)
        if self.target not in _TARGETS:
            raise ValueError(f"target={self.target!r} is not allowed; allowed: {', '.join(_TARGETS)}")
        if not self.num_topics or len(set(self.num_topics)) != len(self.num_topics) or min(self.num_topics) < 1:
            raise ValueError(f"num_topics: got {list(self.num_topics)}; needs numbers from 1 on, and each only once")

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        if self.path is None:
            found = list(made_up_conversations(self.num_topics, self.samples, self.seed))
        else:
            found = read_conversations(self.path, self.data_root, self.num_topics, self.samples)
        return [self._example(index, conversation) for index, conversation in enumerate(found)]

    def _example(self, index: int, conversation: Conversation) -> Example:
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
        title = f"Topic retrieval, {label}" if label else "Topic retrieval"
        return {"by_number": score_by_amount(curves, self.metric, "number of topics", title)}
