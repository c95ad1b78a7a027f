"""The loss of right answers to questions about a long text: retrieval as a number that moves before accuracy does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from matplotlib.figure import Figure

from beacon_lit.data.encoding import token_ids
from beacon_lit.data.retrieval.assembly import RetrievalSample, retrieval_sample
from beacon_lit.data.retrieval.drafts import EXCERPT, KINDS
from beacon_lit.data.retrieval.haystack import Pool
from beacon_lit.data.retrieval.prompt_format import PromptFormat, chat_format, plain_format
from beacon_lit.evaluation.checks import check_at_least, check_distinct, check_names
from beacon_lit.evaluation.plots import score_by_mode
from beacon_lit.evaluation.prompts import AUTO, CHAT, check_template, choose_template
from beacon_lit.evaluation.requests import COSTS, Answer, ScoreText
from beacon_lit.evaluation.task import Example, ModeScores, Record, Score, Subject, Task, mean


@dataclass(frozen=True)
class AnswerLoss(Task):
    """The mean loss of the tokens of right answers, in nats, given the text, the questions and the answers before.

    The samples are those of `beacon_lit.data.sources.SyntheticSource`, which training on `data=retrieval` reads, but
    are made from held-out documents and of other names, numbers and codes. Nothing is generated: a text with many
    questions is read once. Our own task.

    `Score.value` is the mean over kinds. `Score.details` has the loss of each kind, over all its tokens of answers.

    Args:
        lengths: tokens of a sample, answers included.
        kinds: kinds of retrieval, see `SyntheticSource`; default: all.
        questions: maximum number of questions about a text; a sample that is too short for its number has fewer.
        samples: samples per kind and length.
        seed: changes all samples.
        template: "auto", "chat" or "plain".

    Raises:
        ValueError: a setting out of range; on evaluation, too few held-out documents, or a length that is too short.
    """

    lengths: Sequence[int]
    kinds: Sequence[str] = tuple(KINDS)
    questions: int = 8
    samples: int = 1
    seed: int = 0
    template: str = AUTO
    metric = "answer loss"
    higher_is_better = False

    def __post_init__(self) -> None:
        check_distinct(1, lengths=self.lengths)
        check_distinct(kinds=self.kinds)
        check_names(tuple(KINDS), kinds=self.kinds)
        check_at_least(1, questions=self.questions, samples=self.samples)
        check_template(self.template)

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        chat = choose_template(subject.tokenizer, self.template) == CHAT
        prompt_format = (chat_format if chat else plain_format)(subject.tokenizer)
        pool = self._pool(subject)
        return [
            Example(f"{kind}/{length}/{index}", {"kind": kind, "length": length}, sample)
            for kind in self.kinds
            for length in self.lengths
            for index in range(self.samples)
            for sample in [self._sample(prompt_format, pool, kind, length, index)]
        ]

    def _pool(self, subject: Subject) -> Pool:
        """Return as many tokens of the held-out documents, without their special tokens, as all samples have."""
        needed = max(self.lengths) + self.questions * EXCERPT
        wanted = needed + len(self.kinds) * self.samples * sum(self.lengths)
        gap, special = token_ids(subject.tokenizer, "\n\n"), set(subject.tokenizer.all_special_ids)
        texts = ([*(id for id in ids if id not in special), *gap] for _, ids in subject.documents)
        pool = Pool(np.fromiter(islice(chain.from_iterable(texts), wanted), np.int32))
        if len(pool) < needed:
            raise ValueError(
                f"lengths={list(self.lengths)} with questions={self.questions} need {needed:,} tokens of held-out "
                f"text, and data.validation has {len(pool):,}; allowed: more documents, or smaller values"
            )
        return pool

    def _sample(self, prompt_format: PromptFormat, pool: Pool, kind: str, length: int, index: int) -> RetrievalSample:
        seed = f"answer_loss/{self.seed}/{kind}/{length}/{index}"
        try:
            return retrieval_sample(KINDS[kind], prompt_format, pool, length, seed, self.questions)
        except ValueError as error:
            raise ValueError(
                f"lengths={length} is not allowed for kind={kind}: {error}; allowed: longer ones"
            ) from error

    def request(self, subject: Subject, example: Example) -> ScoreText:
        """See Task."""
        return ScoreText(example.content.ids)

    def record(self, example: Example, answer: Answer) -> Record:
        """See Task. The record has the sum of the losses of the tokens of answers, and the number of these tokens."""
        answers = example.content.answers
        losses = answer["losses"].numpy()[answers]
        return {"nll": float(losses.sum()), "answer_tokens": len(losses), **{name: answer[name] for name in COSTS}}

    def grade(self, record: Record) -> Record:
        """See Task."""
        return {"loss": record["nll"] / record["answer_tokens"]}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        sums: dict[str, list[float]] = {}
        for record in records:
            of_kind = sums.setdefault(record["kind"], [0, 0])
            of_kind[0], of_kind[1] = of_kind[0] + record["nll"], of_kind[1] + record["answer_tokens"]
        details = {kind: nll / tokens for kind, (nll, tokens) in sums.items()}
        return Score(mean(details.values()), details)

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task."""
        return {"by_ratio": score_by_mode(runs, self.metric)}
