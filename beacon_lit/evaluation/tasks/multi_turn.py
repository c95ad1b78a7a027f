"""Perplexity of the assistant's turns in conversations, in total and turn by turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from beacon_lit.data.answers import Message
from beacon_lit.data.conversation import tokenize_conversation
from beacon_lit.evaluation.checks import check_at_least, check_limits
from beacon_lit.evaluation.conversations import read_conversations
from beacon_lit.evaluation.requests import COSTS, Answer, ScoreText
from beacon_lit.evaluation.task import Example, Record, Score, Subject, Task
from beacon_lit.evaluation.tasks.perplexity import perplexity


class Spoken(NamedTuple):
    """A conversation as token ids.

    Attributes:
        ids: token ids up to the end of the last answer.
        answers: for each answer the indices [first, last) of its tokens.
    """

    ids: list[int]
    answers: list[tuple[int, int]]


@dataclass(frozen=True)
class MultiTurnPerplexity(Task):
    """The perplexity is exp(sum of losses / number of tokens) over what the assistant says in the first turns.

    A conversation is one text in the tokenizer's chat template, up to the end of its last answer, so every answer is
    read after all turns before it. The tokens of an answer are those that a model would have to generate, the end of
    the turn included. A conversation with fewer turns is scored on those it has.

    `Score.details` has "turn_1", "turn_2" ..., and "by_conversation", exp of the mean over conversations of their mean
    loss, which the paper's code calls perplexity.

    Args:
        path: JSON records with `conversations`: see `conversations.read_conversations`.
        data_root: the folder that `long-llm:` stands for.
        max_examples: maximum number of conversations; None = all.
        turns: maximum number of turns, a question and its answer each.

    Raises:
        ValueError: a setting out of range; on evaluation, a missing file, a malformed record, no chat template, or a
            chat template that refuses a conversation.
    """

    path: str = "long-llm:sharegpt/3-turn.json"
    data_root: str | None = None
    max_examples: int | None = None
    turns: int = 3
    metric = "perplexity"
    higher_is_better = False

    def __post_init__(self) -> None:
        check_limits(max_examples=self.max_examples)
        check_at_least(1, turns=self.turns)

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        examples = []
        for number, document in enumerate(read_conversations(self.path, self.data_root, self.max_examples)):
            messages = document["conversations"]
            system = messages[0]["role"] == "system"
            turns = min(self.turns, (len(messages) - system) // 2)
            try:
                spoken = _spoken(messages[: system + 2 * turns], subject.tokenizer) if turns else None
            except ValueError as error:
                raise ValueError(f"path={self.path!r}: record {document['id']}: {error}") from error
            if spoken is None or len(spoken.answers) != turns:
                raise ValueError(f"path={self.path!r}: record {document['id']} lacks an answer")
            examples.append(Example(str(number), {"document": document["id"]}, spoken))
        return examples

    def request(self, subject: Subject, example: Example) -> ScoreText:
        """See Task."""
        return ScoreText(example.content.ids)

    def record(self, example: Example, answer: Answer) -> Record:
        """See Task. The record has the sum of token losses and the number of tokens of each answer."""
        losses, answers = answer["losses"], example.content.answers
        nll = [losses[first:last].sum().item() for first, last in answers]
        costs = {name: answer[name] for name in COSTS}
        return {"nll_by_turn": nll, "tokens_by_turn": [last - first for first, last in answers], **costs}

    def grade(self, record: Record) -> Record:
        """See Task."""
        return {"perplexity": perplexity(sum(record["nll_by_turn"]), sum(record["tokens_by_turn"]))}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        details, nlls, counts = {}, 0.0, 0
        for turn in range(max(len(record["nll_by_turn"]) for record in records)):
            having = [record for record in records if turn < len(record["nll_by_turn"])]
            nll = sum(record["nll_by_turn"][turn] for record in having)
            count = sum(record["tokens_by_turn"][turn] for record in having)
            details[f"turn_{turn + 1}"] = perplexity(nll, count)
            nlls, counts = nlls + nll, counts + count
        means = [sum(record["nll_by_turn"]) / sum(record["tokens_by_turn"]) for record in records]
        return Score(perplexity(nlls, counts), {**details, "by_conversation": perplexity(sum(means), len(means))})


def _spoken(messages: Sequence[Message], tokenizer: Any) -> Spoken:
    ids, is_answer = tokenize_conversation(list(messages), tokenizer)
    edges = np.flatnonzero(np.diff(is_answer, prepend=False, append=False)).tolist()
    return Spoken(ids[: max(edges, default=0)], list(zip(edges[::2], edges[1::2], strict=True)))
